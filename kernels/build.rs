//! Compiles the kernels with nvcc and embeds them; with the feature `standin` also compiles them for the emulator.

use std::env;
use std::path::{Path, PathBuf};

#[path = "build/jobs.rs"]
mod jobs;
#[path = "build/nvcc.rs"]
mod nvcc;
#[cfg(feature = "standin")]
#[path = "build/simt.rs"]
mod simt;
#[path = "build/toolchain.rs"]
mod toolchain;

const WITH_STANDIN: bool = cfg!(feature = "standin");

fn main() {
    for folder in ["cuda", "simt", "standin", "build", "tests/cuda"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    for variable in toolchain::VARIABLES {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Err(message) = build() {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let kernels = folder("CARGO_MANIFEST_DIR");
    let out = folder("OUT_DIR");
    let toolchain = toolchain::find(kernels.parent().unwrap_or(&kernels))?;
    embed_fatbins(&toolchain, &kernels, &out)?;
    #[cfg(feature = "standin")]
    build_standin(&toolchain, &kernels, &out)?;
    Ok(())
}

/// One architecture in debug builds: the others take their time, and a test of its own compiles them.
fn embed_fatbins(
    toolchain: &toolchain::Toolchain,
    kernels: &Path,
    out: &Path,
) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=LARDER_CUDA_ARCHS");
    let is_release = env::var("PROFILE").is_ok_and(|it| it == "release");
    let wanted = env::var("LARDER_CUDA_ARCHS");
    let wanted = wanted.as_deref().unwrap_or(if is_release { "all" } else { "80" });
    let architectures = nvcc::architectures(wanted);
    // The stand-in looks for kernels' names in what it is given.
    let options = nvcc::Options { architectures: &architectures, compressed: !WITH_STANDIN };

    let folder = out.join("fatbins");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let sources = toolchain::sources(kernels, WITH_STANDIN);
    let mut jobs: Vec<jobs::Job> =
        sources.iter().map(|it| nvcc::job(toolchain, it, &folder, &options)).collect();
    jobs::run_all(&mut jobs, jobs::parallel())?;
    let table = nvcc::table(&jobs).map_err(|error| error.to_string())?;
    std::fs::write(out.join("fatbins.rs"), table).map_err(|error| error.to_string())
}

#[cfg(feature = "standin")]
fn build_standin(
    toolchain: &toolchain::Toolchain,
    kernels: &Path,
    out: &Path,
) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=LARDER_STANDIN_ASAN");
    let with_asan = env::var("LARDER_STANDIN_ASAN").is_ok_and(|it| it == "1");
    let tool = cc::Build::new().cpp(true).opt_level(2).get_compiler();
    let standin = simt::Standin {
        compiler: vec![tool.path().as_os_str().to_owned()],
        toolchain,
        kernels,
        folder: out.join(if with_asan { "standin-asan" } else { "standin" }),
        with_asan,
        parallel: jobs::parallel(),
    };
    standin.build()?;
    println!("cargo:rustc-env=LARDER_STANDIN_FOLDER={}", standin.folder.display());
    Ok(())
}

fn folder(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).expect("cargo sets it"))
}
