//! The kernels that are embedded in the library, loaded into a context: every module once, every kernel found once.

use crate::driver::{Context, DeviceInfo, Function, Module, Result};

/// One compiled file of kernels.
pub struct Image {
    /// The file's name without its ending.
    pub name: &'static str,
    /// Binaries for the architectures, and PTX for newer ones.
    pub fatbin: &'static [u8],
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

/// What the build script embeds.
pub static IMAGES: &[Image] = &include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// All kernels in a context.
pub struct Kernels {
    context: Context,
    /// Sorted by name.
    functions: Vec<(&'static str, Function)>,
    /// Keeps the functions valid.
    _modules: Vec<Module>,
}

impl Kernels {
    /// Loads all embedded kernels.
    pub fn load(context: &Context) -> Result<Self> {
        Self::load_images(context, IMAGES)
    }

    /// Loads `images`. Every kernel may use all of the device's shared memory from then on.
    pub fn load_images(context: &Context, images: &[Image]) -> Result<Self> {
        let mut modules = Vec::with_capacity(images.len());
        let mut functions = Vec::new();
        for image in images {
            let module = Module::load(context, image.fatbin)?;
            for &name in image.kernels {
                let function = module.function(name)?;
                let own = function.static_shared_bytes()?;
                function.allow_shared(context.info().shared_bytes_per_block.saturating_sub(own))?;
                functions.push((name, function));
            }
            modules.push(module);
        }
        functions.sort_unstable_by_key(|&(name, _)| name);
        Ok(Self { context: context.clone(), functions, _modules: modules })
    }

    /// The kernel of that name. Launching one that does not exist is an error.
    pub fn function(&self, name: &str) -> Function {
        match self.functions.binary_search_by_key(&name, |&(name, _)| name) {
            Ok(index) => self.functions[index].1,
            Err(_) => Function::missing(),
        }
    }

    /// The device.
    pub fn info(&self) -> &DeviceInfo {
        self.context.info()
    }
}
