//! The batch's sequences as a tree: a node is a stretch of segments that the same sequences share, and its rows are
//! those of all sequences that go through it. Rows are put in the order of the tree, so that a node's are neighbours.

use super::batch::{Batch, Limits, NO_SEGMENT, Segment};
use super::tables::{NONE, Node, PlanError, Row, Run};

/// A node of the tree, beside what the device is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Branch {
    /// All of the node's sequences share the positions below, but for those that end in it.
    pub end: u32,
    pub parent: u32,
    /// Its rows are `first_row .. first_row + n_rows` in the tree's order.
    pub first_row: u32,
    pub n_rows: u32,
    pub n_sequences: u32,
    /// Smallest and largest position of its rows.
    pub min_position: u32,
    pub max_position: u32,
    /// Head of the list of its children, and the next child of its parent.
    first_child: u32,
    next_sibling: u32,
    /// Head of the list of the sequences that end in it.
    first_sequence: u32,
}

/// A sequence in the tree's order.
#[derive(Debug, Clone, Copy)]
pub struct Leaf {
    pub node: u32,
    /// Its rows are `first_row .. first_row + n_rows` in the tree's order, positions ascending.
    pub first_row: u32,
    pub n_rows: u32,
    pub first_position: u32,
}

/// What is known of a segment in this step.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    step: u32,
    /// It is the last one of its node.
    is_end: bool,
    node: u32,
}

/// The tree, rebuilt every step in memory that is reserved once.
#[derive(Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
    pub runs: Vec<Run>,
    pub rows: Vec<Row>,
    /// Rows of the batch that no sequence has.
    pub padding: Vec<u32>,
    pub branches: Vec<Branch>,
    /// Nodes, parents before children.
    pub order: Vec<u32>,
    pub leaves: Vec<Leaf>,
    marks: Vec<Mark>,
    step: u32,
    /// Per sequence: the next one that ends in the same node.
    next_sequence: Vec<u32>,
    stack: Vec<u32>,
    is_taken: Vec<bool>,
    max_sequence_tokens: u32,
}

impl Tree {
    pub fn new(limits: &Limits) -> Self {
        let n_rows = limits.max_rows as usize;
        let n_sequences = n_rows.min(limits.max_sequences as usize);
        let n_nodes = 2 * n_sequences;
        Self {
            nodes: Vec::with_capacity(n_nodes),
            runs: Vec::with_capacity(limits.total_tokens as usize),
            rows: Vec::with_capacity(n_rows),
            padding: Vec::with_capacity(n_rows),
            branches: Vec::with_capacity(n_nodes),
            order: Vec::with_capacity(n_nodes),
            leaves: Vec::with_capacity(n_sequences),
            marks: vec![Mark::default(); limits.total_tokens as usize],
            step: 0,
            next_sequence: Vec::with_capacity(n_sequences),
            stack: Vec::with_capacity(n_nodes),
            is_taken: vec![false; n_rows],
            max_sequence_tokens: limits.max_sequence_tokens,
        }
    }

    /// Replaces the tree by that of `batch`.
    pub fn build(&mut self, batch: &impl Batch) -> Result<(), PlanError> {
        self.clear(batch)?;
        for i in 0..batch.n_sequences() {
            self.mark_ends(batch, batch.sequence(i).last_segment)?;
        }
        for i in 0..batch.n_sequences() {
            self.add_sequence(batch, i)?;
        }
        self.sort(batch)?;
        self.sum_up();
        let rows = self.is_taken[..batch.n_rows() as usize].iter().zip(0u32..);
        self.padding.extend(rows.filter(|&(&taken, _)| !taken).map(|(_, row)| row));
        Ok(())
    }

    fn clear(&mut self, batch: &impl Batch) -> Result<(), PlanError> {
        let n_rows = batch.n_rows() as usize;
        if n_rows > self.is_taken.len() || batch.n_sequences() > self.leaves.capacity() {
            return Err(PlanError::TooLarge { n_rows, n_sequences: batch.n_sequences() });
        }
        self.nodes.clear();
        self.runs.clear();
        self.rows.clear();
        self.padding.clear();
        self.branches.clear();
        self.order.clear();
        self.leaves.clear();
        self.next_sequence.clear();
        self.is_taken[..n_rows].fill(false);
        if self.step == u32::MAX {
            self.marks.fill(Mark::default());
            self.step = 0;
        }
        self.step += 1;
        Ok(())
    }

    /// The segment's mark, fresh in every step.
    fn mark(&mut self, segment: u32) -> Result<&mut Mark, PlanError> {
        let step = self.step;
        let mark = self.marks.get_mut(segment as usize).ok_or(PlanError::NoSegment(segment))?;
        if mark.step != step {
            *mark = Mark { step: 0, is_end: false, node: NONE };
        }
        Ok(mark)
    }

    /// Walks a chain until what was walked before; marks where nodes end: where sequences end and where they part.
    fn mark_ends(&mut self, batch: &impl Batch, last: u32) -> Result<(), PlanError> {
        let step = self.step;
        let mut current = last;
        loop {
            let mark = self.mark(current)?;
            let was_seen = mark.step == step;
            mark.is_end |= was_seen || current == last;
            mark.step = step;
            if was_seen {
                return Ok(());
            }
            match batch.segment(current).parent {
                NO_SEGMENT => return Ok(()),
                parent => current = parent,
            }
        }
    }

    /// Adds the nodes of a sequence that are not there yet, from its end on.
    fn add_sequence(&mut self, batch: &impl Batch, i: usize) -> Result<(), PlanError> {
        let sequence = batch.sequence(i);
        let last = batch.segment(sequence.last_segment);
        let end = u64::from(last.first_position) + u64::from(last.len);
        let is_wrong =
            sequence.n > sequence.n_tokens || sequence.n_tokens > self.max_sequence_tokens;
        if u64::from(sequence.n_tokens) > end || is_wrong {
            return Err(PlanError::NoSlot { position: sequence.n_tokens.saturating_sub(1) });
        }
        let mut current = sequence.last_segment;
        let mut child = NONE;
        loop {
            let known = self.mark(current)?.node;
            let is_known = known != NONE;
            let (node, above) =
                if is_known { (known, NO_SEGMENT) } else { self.add_node(batch, current)? };
            if child == NONE {
                self.next_sequence.push(self.branches[node as usize].first_sequence);
                self.branches[node as usize].first_sequence = i as u32;
            } else {
                self.adopt(node, child);
            }
            if is_known || above == NO_SEGMENT {
                return Ok(());
            }
            (child, current) = (node, above);
        }
    }

    fn adopt(&mut self, node: u32, child: u32) {
        let child_begins = self.nodes[child as usize].first_position;
        let branch = &mut self.branches[node as usize];
        let next_sibling = std::mem::replace(&mut branch.first_child, child);
        branch.end = branch.end.min(child_begins);
        let child_branch = &mut self.branches[child as usize];
        (child_branch.next_sibling, child_branch.parent) = (next_sibling, node);
        self.nodes[child as usize].parent = node;
    }

    /// A node that ends with segment `last`; returns it and the last segment of the node above.
    fn add_node(&mut self, batch: &impl Batch, last: u32) -> Result<(u32, u32), PlanError> {
        let node = self.nodes.len() as u32;
        let first_run = self.runs.len() as u32;
        let mut segment = batch.segment(last);
        let end = segment.first_position + segment.len;
        let mut current = last;
        let above = loop {
            self.mark(current)?.node = node;
            self.add_run(first_run, &segment);
            let parent = segment.parent;
            if parent == NO_SEGMENT {
                if segment.first_position != 0 {
                    return Err(PlanError::NoSlot { position: segment.first_position - 1 });
                }
                break NO_SEGMENT;
            }
            let before = batch.segment(parent);
            let reaches = u64::from(before.first_position) + u64::from(before.len);
            if reaches < u64::from(segment.first_position) || segment.first_position == 0 {
                return Err(PlanError::NoSlot {
                    position: segment.first_position.saturating_sub(1),
                });
            }
            if self.mark(parent)?.is_end {
                break parent;
            }
            (current, segment) = (parent, before);
        };
        self.nodes.push(Node {
            first_position: segment.first_position,
            first_run,
            n_runs: self.runs.len() as u32 - first_run,
            parent: NONE,
        });
        self.branches.push(Branch {
            end,
            parent: NONE,
            first_row: 0,
            n_rows: 0,
            n_sequences: 0,
            min_position: u32::MAX,
            max_position: 0,
            first_child: NONE,
            next_sibling: NONE,
            first_sequence: NONE,
        });
        Ok((node, above))
    }

    /// Adds what lies before the runs since `first_run`; adjoining slots become one run.
    fn add_run(&mut self, first_run: u32, segment: &Segment) {
        let run = Run { first_position: segment.first_position, slot: segment.start };
        if let Some(next) = self.runs[first_run as usize..].last_mut() {
            let distance = next.first_position.wrapping_sub(segment.first_position);
            if segment.start.wrapping_add(distance) == next.slot {
                *next = run;
                return;
            }
        }
        self.runs.push(run);
    }

    /// Puts nodes, sequences and rows in the tree's order.
    fn sort(&mut self, batch: &impl Batch) -> Result<(), PlanError> {
        self.stack.clear();
        let roots = 0..self.branches.len() as u32;
        self.stack.extend(roots.filter(|&i| self.branches[i as usize].parent == NONE));
        while let Some(node) = self.stack.pop() {
            self.order.push(node);
            self.branches[node as usize].first_row = self.rows.len() as u32;
            let mut i = self.branches[node as usize].first_sequence;
            while i != NONE {
                self.add_leaf(batch, node, i)?;
                i = self.next_sequence[i as usize];
            }
            let mut child = self.branches[node as usize].first_child;
            while child != NONE {
                self.stack.push(child);
                child = self.branches[child as usize].next_sibling;
            }
        }
        Ok(())
    }

    fn add_leaf(&mut self, batch: &impl Batch, node: u32, i: u32) -> Result<(), PlanError> {
        let sequence = batch.sequence(i as usize);
        let first_row = self.rows.len() as u32;
        let first_position = sequence.n_tokens - sequence.n;
        for k in 0..sequence.n {
            let row = batch.row(sequence.first + k);
            let taken = self.is_taken[..batch.n_rows() as usize].get_mut(row as usize);
            match taken {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(PlanError::NoRow(row)),
            }
            self.rows.push(Row { row, position: first_position + k });
        }
        let branch = &mut self.branches[node as usize];
        branch.n_sequences += 1;
        branch.n_rows += sequence.n;
        if sequence.n > 0 {
            branch.min_position = branch.min_position.min(first_position);
            branch.max_position = branch.max_position.max(sequence.n_tokens - 1);
        }
        self.leaves.push(Leaf { node, first_row, n_rows: sequence.n, first_position });
        Ok(())
    }

    /// Adds what belongs to a node to those above it.
    fn sum_up(&mut self) {
        for &node in self.order.iter().rev() {
            let below = self.branches[node as usize];
            if below.parent == NONE {
                continue;
            }
            let branch = &mut self.branches[below.parent as usize];
            branch.n_rows += below.n_rows;
            branch.n_sequences += below.n_sequences;
            branch.min_position = branch.min_position.min(below.min_position);
            branch.max_position = branch.max_position.max(below.max_position);
        }
    }
}
