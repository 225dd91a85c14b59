//! Every call of cuBLASLt failing in turn.

use super::*;

#[test]
fn every_failing_call_is_an_error_and_nothing_is_left_over() {
    let library = Library::new();
    let shape = dense(8, 8, Element::F16, Element::F32);
    let attempt = || -> Result<()> {
        let context = Context::open(0, None)?;
        let _entered = context.enter()?;
        let stream = Stream::new(&context)?;
        let mut blas = Blas::open(&context)?.expect("the library is there");
        let prepared = blas.prepare(shape, 65, WORKSPACE)?;
        let memory = DeviceBlock::new(&context, 4096 + WORKSPACE)?;
        let operands = Operands {
            input: memory.address(),
            weights: memory.address() + 1024,
            out: memory.address() + 2048,
            n_rows: 2,
            alpha: 1.0,
            workspace: memory.address() + 4096,
            workspace_bytes: WORKSPACE,
        };
        // SAFETY: each matrix fits its kilobyte.
        let outcome = unsafe { blas.matmul(&stream, prepared, &operands) }?;
        assert_eq!(outcome, Outcome::Enqueued);
        Ok(stream.synchronize()?)
    };
    let before = standin::calls();
    attempt().expect("without a failure");
    let n_calls = standin::calls() - before;
    let mut failed = Vec::new();
    for nth in 1..=n_calls {
        standin::fail_call(nth, OUT_OF_MEMORY);
        if let Err(error) = attempt() {
            let Unavailable::Cuda(error) = error else { panic!("{error}") };
            assert!(!error.is_sticky());
            if error.call.starts_with("cublasLt") {
                assert!(
                    error.message.starts_with("CUBLAS_STATUS_INTERNAL_ERROR (14): "),
                    "{error}"
                );
            } else {
                assert_eq!(error.code, OUT_OF_MEMORY, "{error}");
            }
            failed.push(error.call);
        }
        standin::fail_call(0, 0);
        assert_eq!(library.live(), 0, "call {nth}");
        assert!(library.world.books().is_clean(), "call {nth}: {:?}", library.world.books());
    }
    for call in ["cublasLtCreate", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul"] {
        assert!(failed.contains(&call), "{failed:?}");
    }
}

/// CUDA_ERROR_OUT_OF_MEMORY.
const OUT_OF_MEMORY: u32 = 2;
