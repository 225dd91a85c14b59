//! Prints the folder with the stand-ins for libcuda and libcublasLt, for LD_LIBRARY_PATH.

fn main() {
    println!("{}", larder_kernels::standin::folder().display());
}
