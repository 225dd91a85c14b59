//! Compiles the kernels as C++ for the SIMT emulator, and links them into stand-ins for libcuda and libcublasLt.
//!
//! Each kernel file becomes a library of its own: nothing of one file is merged with what has the same name in another,
//! and its thread-local storage is its kernels' static shared memory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::jobs::{Job, beside, files, run_all, stem};
use super::toolchain::{Toolchain, sources};

pub struct Standin<'a> {
    pub compiler: Vec<OsString>,
    pub toolchain: &'a Toolchain,
    /// The kernels crate.
    pub kernels: &'a Path,
    /// Where everything is built.
    pub folder: PathBuf,
    pub with_asan: bool,
    pub parallel: usize,
}

impl Standin<'_> {
    /// Builds what has changed.
    pub fn build(&self) -> Result<(), String> {
        std::fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        let kernels = sources(self.kernels, true);
        let mut driver = files(&self.kernels.join("standin"), "cpp");
        driver.extend(files(&self.kernels.join("simt"), "cpp"));
        let (blas, driver): (Vec<_>, Vec<_>) =
            driver.into_iter().partition(|path| stem(path).starts_with("cublaslt"));

        let mut objects: Vec<Job> = kernels.iter().map(|it| self.object(it, true)).collect();
        objects.extend(driver.iter().chain(&blas).map(|it| self.object(it, false)));
        run_all(&mut objects, self.parallel)?;

        let mut libraries: Vec<Job> = kernels.iter().map(|it| self.kernel_library(it)).collect();
        run_all(&mut libraries, self.parallel)?;
        let parts: Vec<PathBuf> = libraries.into_iter().map(|job| job.output).collect();
        run_all(&mut [self.library("libcuda.so", &driver, &parts)], 1)?;
        let cuda = self.folder.join("libcuda.so");
        run_all(&mut [self.library("libcublasLt.so", &blas, &[cuda])], 1)?;
        // The name that programs which link the driver ask for.
        let other_name = self.folder.join("libcuda.so.1");
        let _ = std::fs::remove_file(&other_name);
        std::os::unix::fs::symlink("libcuda.so", other_name).map_err(|error| error.to_string())
    }

    fn compiler(&self) -> Command {
        let mut command = Command::new(&self.compiler[0]);
        command.args(&self.compiler[1..]).args(["-std=c++17", "-O2", "-g1", "-fPIC"]);
        if self.with_asan {
            command.args(["-fsanitize=address", "-fno-omit-frame-pointer"]);
        }
        command
    }

    fn object_path(&self, source: &Path) -> PathBuf {
        self.folder.join(format!("{}.o", stem(source)))
    }

    /// Kernels read memory through pointers of other types, as CUDA allows, and must not fuse what is written apart.
    fn object(&self, source: &Path, is_kernel: bool) -> Job {
        let output = self.object_path(source);
        let mut command = self.compiler();
        command.args(["-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wextra"]);
        if is_kernel {
            command.args(["-DLARDER_SIMT", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]);
            command.args(["-Wno-unknown-pragmas", "-Wno-unused-parameter", "-x", "c++"]);
        }
        command.arg("-I").arg(self.kernels.join("cuda")).arg("-I").arg(self.kernels.join("simt"));
        command.arg("-isystem").arg(&self.toolchain.include);
        command.arg("-MMD").arg("-MF").arg(beside(&output, "d"));
        command.arg("-c").arg("-o").arg(&output).arg(source);
        Job { command, output, inputs: vec![source.to_owned()] }
    }

    fn kernel_library(&self, source: &Path) -> Job {
        let object = self.object_path(source);
        let name = format!("liblarder_kernels_{}.so", stem(source));
        let output = self.folder.join(&name);
        let mut command = self.compiler();
        command.arg("-shared").arg(format!("-Wl,-soname,{name}"));
        command.arg("-o").arg(&output).arg(&object);
        Job { command, output, inputs: vec![object] }
    }

    /// A library of some objects that brings other libraries with it.
    fn library(&self, name: &str, objects: &[PathBuf], needed: &[PathBuf]) -> Job {
        let output = self.folder.join(name);
        let mut inputs: Vec<PathBuf> = objects.iter().map(|it| self.object_path(it)).collect();
        inputs.extend(needed.iter().cloned());
        let mut command = self.compiler();
        command.arg("-shared").arg(format!("-Wl,-soname,{name}")).arg("-Wl,-rpath,$ORIGIN");
        command.arg("-o").arg(&output).arg("-Wl,--no-as-needed").args(&inputs).arg("-lpthread");
        Job { command, output, inputs }
    }
}
