//! Products at the shapes of models of 1B and 8B parameters, each by the kernels that would do it, and norms.

use larder_kernels::blas::{Blas, Element, Operands, Outcome, Shape};
use larder_kernels::driver::{DeviceBlock, DevicePtr, Result};
use larder_kernels::format::{Format, Layout, Weights};
use larder_kernels::norm::{Norm, NormKind, norm_rows};
use larder_kernels::product::{Act, Finish, FinishKind};
use larder_kernels::{gemm, gemv, small};

use super::bench::{Bench, Copies, Failure, Row, gb_per_s, print_header};

/// Scratch of cuBLASLt.
const WORKSPACE: u64 = 8 << 20;
/// Products in a captured graph.
const N_TIMES: u64 = 24;

struct Model {
    name: &'static str,
    hidden: u32,
    qkv: u32,
    inter: u32,
    vocab: u32,
}

const MODELS: [Model; 2] = [
    Model { name: "1B", hidden: 2048, qkv: 3072, inter: 8192, vocab: 128_256 },
    Model { name: "8B", hidden: 4096, qkv: 6144, inter: 14_336, vocab: 128_256 },
];
const TINY: Model = Model { name: "tiny", hidden: 256, qkv: 320, inter: 512, vocab: 384 };

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Store,
    Residual,
    Gated,
}

#[derive(Clone, Copy)]
struct Product {
    name: &'static str,
    n_out: u32,
    n_in: u32,
    ending: Ending,
}

impl Model {
    fn products(&self) -> [Product; 5] {
        let Self { hidden, qkv, inter, vocab, .. } = *self;
        let product = |name, n_out, n_in, ending| Product { name, n_out, n_in, ending };
        [
            product("q, k, v", qkv, hidden, Ending::Store),
            product("output", hidden, hidden, Ending::Residual),
            product("gate and up", inter, hidden, Ending::Gated),
            product("down", hidden, inter, Ending::Residual),
            product("head", vocab, hidden, Ending::Store),
        ]
    }
}

pub fn run(bench: &Bench) -> std::result::Result<(), Failure> {
    println!("### Products\n");
    print_header(&[
        "model", "product", "format", "kernel", "rows", "µs", "GB/s", "of copy", "TFLOP/s",
    ]);
    let (models, rows): (&[Model], &[u32]) = match bench.is_smoke {
        true => (&[TINY], &[1, 8, 96]),
        false => (&MODELS, &[1, 8, 32, 128, 512]),
    };
    for model in models {
        for product in model.products() {
            for format in [Format::BF16, Format::F8E4M3, Format::Q8_0, Format::Q4_K] {
                Case::new(bench, product, format, rows)?.run(model.name, rows)?;
            }
        }
    }
    println!("\n### Norms\n");
    print_header(&["width", "rows", "µs", "GB/s", "of copy"]);
    for model in models {
        rows.iter().try_for_each(|&n_rows| norms(bench, model.hidden, n_rows))?;
    }
    println!();
    Ok(())
}

/// Memory of one product for all row counts.
struct Case<'a> {
    bench: &'a Bench,
    product: Product,
    layout: Layout,
    /// Gate and up lie one behind the other.
    n_matrices: u32,
    weights: Copies,
    input: DeviceBlock,
    out: DeviceBlock,
    workspace: DeviceBlock,
}

impl<'a> Case<'a> {
    fn new(
        bench: &'a Bench,
        product: Product,
        format: Format,
        rows: &[u32],
    ) -> std::result::Result<Self, Failure> {
        let layout = Layout::new(format, product.n_out, product.n_in)?;
        let n_matrices = if product.ending == Ending::Gated { 2 } else { 1 };
        let max_rows = u64::from(rows.iter().copied().max().unwrap_or(1));
        Ok(Self {
            weights: bench.copies(layout.bytes() * u64::from(n_matrices), N_TIMES)?,
            input: bench.random(max_rows * u64::from(product.n_in) * 4)?,
            out: bench.random(max_rows * u64::from(product.n_out * n_matrices) * 4)?,
            workspace: bench.random(WORKSPACE)?,
            bench,
            product,
            layout,
            n_matrices,
        })
    }

    fn run(&self, model: &str, rows: &[u32]) -> Result<()> {
        for &n_rows in rows {
            if n_rows <= gemv::MAX_ROWS {
                self.print(model, "gemv", n_rows, self.time(|i| self.gemv(i, n_rows))?);
            } else if n_rows <= small::MAX_ROWS {
                self.print(model, "small", n_rows, self.time(|i| self.small(i, n_rows))?);
            } else {
                self.print(model, "gemm", n_rows, self.time(|i| self.gemm(i, n_rows))?);
                if let Some(microseconds) = self.cublaslt(n_rows)? {
                    self.print(model, "cuBLASLt", n_rows, microseconds);
                }
            }
        }
        Ok(())
    }

    fn time(&self, enqueue: impl Fn(u64) -> Result<()>) -> Result<f64> {
        self.bench.time(if self.bench.is_smoke { 2 } else { N_TIMES }, enqueue)
    }

    fn matrices(&self, i: u64) -> Vec<Weights> {
        let base = self.weights.address(i);
        (0..u64::from(self.n_matrices))
            .map(|matrix| self.layout.weights(base + matrix * self.layout.bytes()))
            .collect()
    }

    fn finish(&self) -> FinishKind {
        let finish = Finish::to(self.out.address(), self.product.n_out);
        match self.product.ending {
            Ending::Store => FinishKind::Store(finish),
            Ending::Residual => FinishKind::Residual(finish),
            Ending::Gated => FinishKind::Gated(finish, Act::BF16),
        }
    }

    fn gemv(&self, i: u64, n_rows: u32) -> Result<()> {
        let Bench { kernels, stream, .. } = self.bench;
        let (matrices, format, finish) = (self.matrices(i), self.layout.format(), self.finish());
        let input = self.input.address();
        // SAFETY: the blocks have the sizes of the product.
        unsafe { gemv::launch(kernels, stream, &matrices, format, input, None, n_rows, &finish) }
    }

    fn small(&self, i: u64, n_rows: u32) -> Result<()> {
        let Bench { kernels, stream, .. } = self.bench;
        let (matrices, format, finish) = (self.matrices(i), self.layout.format(), self.finish());
        let input = self.input.address();
        // SAFETY: as above.
        unsafe { small::launch(kernels, stream, &matrices, format, input, n_rows, &finish) }
    }

    fn gemm(&self, i: u64, n_rows: u32) -> Result<()> {
        let Bench { kernels, stream, .. } = self.bench;
        let (matrices, format, finish) = (self.matrices(i), self.layout.format(), self.finish());
        let input = self.input.address();
        // SAFETY: as above.
        unsafe { gemm::launch(kernels, stream, &matrices, format, input, n_rows, &finish) }
    }

    /// Plain products only: the gate is left out, gate and up are one matrix. None where it is missing.
    fn cublaslt(&self, n_rows: u32) -> Result<Option<f64>> {
        if self.layout.format() != Format::BF16 {
            return Ok(None);
        }
        let Some(mut blas) = Blas::open(&self.bench.context)? else { return Ok(None) };
        let n_out = self.product.n_out * self.n_matrices;
        let shape = Shape {
            n_out,
            n_in: self.product.n_in,
            input_ld: self.product.n_in,
            weight_ld: self.layout.row_elements(),
            out_ld: n_out,
            input: Element::Bf16,
            out: Element::F32,
            accumulate: self.product.ending == Ending::Residual,
        };
        let prepared = blas.prepare(shape, n_rows, WORKSPACE)?;
        let operands = |weights: DevicePtr| Operands {
            input: self.input.address(),
            weights,
            out: self.out.address(),
            n_rows,
            alpha: 1.0,
            workspace: self.workspace.address(),
            workspace_bytes: WORKSPACE,
        };
        let stream = &self.bench.stream;
        // Once outside of a graph, which loads the library's kernel.
        // SAFETY: the blocks have the sizes of the product.
        let first = unsafe { blas.matmul(stream, prepared, &operands(self.weights.address(0))) }?;
        if first == Outcome::NotPossible {
            return Ok(None);
        }
        stream.synchronize()?;
        let blas = std::cell::RefCell::new(blas);
        let microseconds = self.time(|i| {
            let operands = operands(self.weights.address(i));
            // SAFETY: as above.
            unsafe { blas.borrow_mut().matmul(stream, prepared, &operands) }.map(|_| ())
        })?;
        Ok(Some(microseconds))
    }

    fn print(&self, model: &str, kernel: &str, n_rows: u32, microseconds: f64) {
        let weights = self.layout.bytes() * u64::from(self.n_matrices);
        let speed = gb_per_s(weights, microseconds);
        let Product { n_out, n_in, .. } = self.product;
        let n_out = u64::from(n_out * self.n_matrices);
        let flop = 2 * n_out * u64::from(n_in) * u64::from(n_rows);
        let cells = [
            model.to_owned(),
            self.product.name.to_owned(),
            format!("{:?}", self.layout.format()),
            kernel.to_owned(),
            n_rows.to_string(),
            format!("{microseconds:.1}"),
            format!("{speed:.0}"),
            format!("{:.0} %", 100.0 * speed / self.bench.copy_gb_per_s),
            format!("{:.1}", flop as f64 / microseconds / 1e6),
        ];
        println!("{}", Row(&cells));
    }
}

/// RMS norm of the residual into rows of bf16.
fn norms(bench: &Bench, n: u32, n_rows: u32) -> Result<()> {
    let elements = u64::from(n) * u64::from(n_rows);
    let (x, out) = (bench.copies(elements * 4, 8)?, bench.random(elements * 2)?);
    let weight = bench.random(u64::from(n) * 4)?;
    let norm = Norm { weight: weight.address(), bias: 0, kind: NormKind::Rms, eps: 1e-5 };
    let microseconds = bench.time(x.n, |i| {
        let (x, out) = (x.address(i), out.address());
        // SAFETY: the blocks have these sizes.
        unsafe { norm_rows(&bench.kernels, &bench.stream, &norm, Act::BF16, x, 0, out, n_rows, n) }
    })?;
    let speed = gb_per_s(elements * 6, microseconds);
    let cells = [
        n.to_string(),
        n_rows.to_string(),
        format!("{microseconds:.1}"),
        format!("{speed:.0}"),
        format!("{:.0} %", 100.0 * speed / bench.copy_gb_per_s),
    ];
    println!("{}", Row(&cells));
    Ok(())
}
