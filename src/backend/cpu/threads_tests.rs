use super::*;
use std::sync::atomic::AtomicUsize;

fn started(n_threads: u32, executor: Option<Arc<dyn Executor>>) -> Result<Pool> {
    let mut pool = Pool::idle(n_threads, executor)?;
    pool.start()?;
    Ok(pool)
}

fn sum_of_run(pool: &Pool, n_tasks: usize) -> (usize, usize) {
    let (calls, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
    pool.run(n_tasks, &|task, thread| {
        assert!(thread < pool.n_threads());
        calls.fetch_add(1, SeqCst);
        sum.fetch_add(task + 1, SeqCst);
    })
    .unwrap();
    (calls.into_inner(), sum.into_inner())
}

#[test]
fn every_task_runs_once() {
    for n_threads in [1, 2, 3, 5] {
        let pool = started(n_threads, None).unwrap();
        assert_eq!(pool.n_threads(), n_threads as usize);
        for n in [0, 1, 2, 3, 4, 5, 6, 7, 100] {
            assert_eq!(sum_of_run(&pool, n), (n, n * (n + 1) / 2));
        }
    }
}

#[test]
fn parts_are_contiguous_and_in_order_of_threads() {
    let pool = started(3, None).unwrap();
    let of: Vec<AtomicUsize> = (0..10).map(|_| AtomicUsize::new(99)).collect();
    pool.run(10, &|task, thread| of[task].store(thread, SeqCst)).unwrap();
    let of: Vec<usize> = of.iter().map(|thread| thread.load(SeqCst)).collect();
    assert_eq!(of, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]);
    // Fewer tasks than threads: the first threads have one each.
    pool.run(2, &|task, thread| assert_eq!(task, thread)).unwrap();
}

#[test]
fn many_runs_do_not_lose_a_wake_up() {
    let pool = started(3, None).unwrap();
    let total = AtomicUsize::new(0);
    for i in 0..10_000 {
        pool.run(3, &|_, _| {
            total.fetch_add(1, SeqCst);
        })
        .unwrap();
        if i % 2_500 == 0 {
            std::thread::sleep(2 * SPIN);
        }
    }
    assert_eq!(total.into_inner(), 30_000);
}

#[test]
fn a_panic_becomes_an_error_on_any_thread_and_the_pool_goes_on() {
    let pool = started(3, None).unwrap();
    for bad in 0..3 {
        let others = AtomicUsize::new(0);
        let error = pool
            .run(3, &|task, _| {
                assert!(task != bad, "task {task} is bad");
                others.fetch_add(1, SeqCst);
            })
            .unwrap_err();
        let Error::Internal(text) = error else { panic!("{error:?}") };
        assert!(text.contains(&format!("task {bad} is bad")), "{text}");
        assert_eq!(others.into_inner(), 2);
        assert_eq!(sum_of_run(&pool, 7), (7, 28));
    }
    let error = pool.run(1, &|_, _| std::panic::panic_any(5)).unwrap_err();
    assert!(matches!(error, Error::Internal(_)));
}

#[test]
fn runs_do_not_nest() {
    let pool = started(2, None).unwrap();
    let refused = AtomicUsize::new(0);
    pool.run(2, &|_, _| {
        refused.fetch_add(usize::from(pool.run(2, &|_, _| {}).is_err()), SeqCst);
    })
    .unwrap();
    assert_eq!(refused.into_inner(), 2);
    assert_eq!(sum_of_run(&pool, 2), (2, 3));
}

#[test]
fn dropping_sleeping_and_spinning_workers_joins_them() {
    for wait in [Duration::ZERO, 3 * SPIN, Duration::from_millis(5)] {
        let pool = started(4, None).unwrap();
        assert_eq!(sum_of_run(&pool, 4), (4, 10));
        std::thread::sleep(wait);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none(), "a worker still holds the pool");
    }
}

#[test]
fn workers_block_signals_and_the_caller_is_as_before() {
    let blocked = || {
        // SAFETY: reads the mask of the calling thread.
        unsafe {
            let mut now: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut now);
            libc::sigismember(&now, libc::SIGINT) == 1
        }
    };
    let before = blocked();
    let pool = started(2, None).unwrap();
    assert_eq!(blocked(), before);
    let seen = [AtomicBool::new(before), AtomicBool::new(false)];
    pool.run(2, &|task, _| seen[task].store(blocked(), SeqCst)).unwrap();
    assert_eq!(seen.map(AtomicBool::into_inner), [before, true]);
}

struct Host {
    calls: AtomicUsize,
    left_out: u32,
}

impl Executor for Host {
    fn parallel_for(&self, n_tasks: u32, task: &(dyn Fn(u32) + Sync)) {
        self.calls.fetch_add(1, SeqCst);
        std::thread::scope(|scope| {
            (self.left_out..n_tasks).rev().for_each(|i| {
                scope.spawn(move || task(i));
            });
        });
    }
}

#[test]
fn the_hosts_executor_runs_the_parts() {
    let host = Arc::new(Host { calls: AtomicUsize::new(0), left_out: 0 });
    let pool = started(3, Some(host.clone())).unwrap();
    assert!(pool.workers.is_empty());
    assert_eq!(sum_of_run(&pool, 10), (10, 55));
    let error = pool.run(3, &|task, _| assert!(task != 1, "bad")).unwrap_err();
    assert!(error.to_string().contains("bad"));
    assert_eq!(sum_of_run(&pool, 2), (2, 3));
    assert_eq!(host.calls.load(SeqCst), 3);
}

#[test]
fn an_executor_that_leaves_tasks_out_is_reported() {
    let host = Arc::new(Host { calls: AtomicUsize::new(0), left_out: 1 });
    let pool = started(3, Some(host)).unwrap();
    let error = pool.run(3, &|_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Device(text) if text.contains("1 of 3")));
}

#[test]
fn thread_counts_are_checked() {
    assert!(matches!(started(MAX_THREADS + 1, None), Err(Error::InvalidArgument(_))));
    assert!(started(0, None).unwrap().n_threads() >= 1);
}
