//! Where the CUDA compiler is.

use std::env;
use std::path::{Path, PathBuf};

use super::jobs::files;

pub const VARIABLES: [&str; 4] = ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"];

const MISSING: &str = "The CUDA backend needs nvcc (CUDA 13), and none was found. Either run `make cuda-toolchain`, \
    which puts NVIDIA's compiler from PyPI into build/cuda-toolchain; or set NVCC to the path of an nvcc, or CUDA_HOME \
    to the folder of an installed toolkit. No GPU and no driver are needed to build.";

/// A CUDA compiler and the headers that belong to it.
pub struct Toolchain {
    pub nvcc: PathBuf,
    pub include: PathBuf,
}

/// Looks where the variables say, then in the folder that `make cuda-toolchain` fills.
pub fn find(repository: &Path) -> Result<Toolchain, String> {
    let nvcc = candidates(repository).into_iter().find(|path| path.is_file()).ok_or(MISSING)?;
    // A link leads to the toolkit that has the headers.
    let real = nvcc.canonicalize().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let root = real.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let include = [root.join("include"), root.join("targets/x86_64-linux/include")]
        .into_iter()
        .chain(env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include")))
        .chain([PathBuf::from("/usr/include")])
        .find(|folder| folder.join("cuda_bf16.h").is_file())
        .ok_or_else(|| format!("{} has no headers beside it (cuda_bf16.h)", nvcc.display()))?;
    Ok(Toolchain { nvcc, include })
}

fn candidates(repository: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        found.extend(env::var_os(variable).map(|home| PathBuf::from(home).join("bin/nvcc")));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).map(|folder| folder.join("nvcc")));
    // The wheels' path has Python's version in it.
    let lib = repository.join("build/cuda-toolchain/lib");
    let pythons = std::fs::read_dir(lib).into_iter().flatten().flatten();
    found.extend(pythons.map(|it| it.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    found
}

/// The kernels' source files.
pub fn sources(kernels: &Path, with_tests: bool) -> Vec<PathBuf> {
    let mut found = files(&kernels.join("cuda"), "cu");
    if with_tests {
        found.extend(files(&kernels.join("tests/cuda"), "cu"));
    }
    found
}
