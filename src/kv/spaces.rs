//! Namespaces: one for each tenant or adapter. Prefixes are shared inside one only.
#![forbid(unsafe_code)]

use super::chains::{Chains, hash};
use super::reserved;
use crate::error::{Error, Result};

/// Namespaces that are known at once: those with tokens in the tree and those with settings.
pub const MAX_NAME_SPACES: u32 = 1024;

/// What a host may ask for a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameSpaceSettings {
    /// Slots that the tree may keep for it when nobody reads them; the least recently used go first.
    pub max_idle_slots: u32,
    /// What it has in the tree is never evicted, and so does not count as free.
    pub is_pinned: bool,
}

impl Default for NameSpaceSettings {
    fn default() -> Self {
        NameSpaceSettings { max_idle_slots: u32::MAX, is_pinned: false }
    }
}

/// One namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) name: u64,
    /// Slots of the tree.
    pub(super) n_slots: u32,
    /// Those of them that nobody reads.
    pub(super) n_idle: u32,
    pub(super) settings: NameSpaceSettings,
}

/// All namespaces.
#[derive(Debug)]
pub(super) struct Spaces {
    entries: Vec<Space>,
    /// Entries without slots and settings.
    unused: Vec<u32>,
    by_name: Chains,
}

impl Spaces {
    pub(super) fn new() -> Result<Spaces> {
        let n = MAX_NAME_SPACES;
        let (entries, unused) = (reserved(n as usize)?, reserved(n as usize)?);
        Ok(Spaces { entries, unused, by_name: Chains::new(n, n)? })
    }

    /// Heap bytes of `new()`.
    pub(super) fn bytes() -> u64 {
        let n = MAX_NAME_SPACES;
        u64::from(n) * (size_of::<Space>() + size_of::<u32>()) as u64 + Chains::bytes(n, n)
    }

    pub(super) fn get(&self, index: u32) -> &Space {
        &self.entries[index as usize]
    }

    pub(super) fn find(&self, name: u64) -> Option<u32> {
        self.by_name.find(hash(name, 0), |index| self.entries[index as usize].name == name)
    }

    /// The namespace, new if need be; `None` when [`MAX_NAME_SPACES`] others are known.
    pub(super) fn find_or_add(&mut self, name: u64) -> Option<u32> {
        if let Some(index) = self.find(name) {
            return Some(index);
        }
        let settings = NameSpaceSettings::default();
        let space = Space { name, n_slots: 0, n_idle: 0, settings };
        let index = match self.unused.pop() {
            Some(index) => {
                self.entries[index as usize] = space;
                index
            }
            None if self.entries.len() < self.entries.capacity() => {
                self.entries.push(space);
                (self.entries.len() - 1) as u32
            }
            None => return None,
        };
        self.by_name.insert(hash(name, 0), index);
        Some(index)
    }

    /// Changes a namespace's settings and returns its index.
    pub(super) fn set(&mut self, name: u64, settings: NameSpaceSettings) -> Result<u32> {
        let index = self.find_or_add(name).ok_or_else(|| {
            Error::LimitReached(format!(
                "{} namespaces have settings or cached tokens, no more can be known at once",
                self.entries.len()
            ))
        })?;
        self.entries[index as usize].settings = settings;
        Ok(index)
    }

    pub(super) fn add_slots(&mut self, index: u32, n: u32) {
        self.entries[index as usize].n_slots += n;
    }

    pub(super) fn remove_slots(&mut self, index: u32, n: u32) {
        self.entries[index as usize].n_slots -= n;
    }

    pub(super) fn add_idle(&mut self, index: u32, n: u32) {
        self.entries[index as usize].n_idle += n;
    }

    pub(super) fn remove_idle(&mut self, index: u32, n: u32) {
        self.entries[index as usize].n_idle -= n;
    }

    /// Forgets a namespace that has nothing.
    pub(super) fn forget_empty(&mut self, index: u32) {
        let Space { name, n_slots, settings, .. } = self.entries[index as usize];
        let is_known = self.find(name) == Some(index);
        if is_known && n_slots == 0 && settings == NameSpaceSettings::default() {
            self.by_name.remove(hash(name, 0), index);
            self.unused.push(index);
        }
    }
}
