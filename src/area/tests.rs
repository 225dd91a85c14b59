//! The packer against the lower bound and against a pairwise look at all regions; the area's rules.

use super::*;

/// Requests of a decoder with `n_layers` layers: what lives through all of it, and each layer's temporaries.
fn trace_decoder(area: &mut Area, n_layers: usize, rows: usize, hidden: usize, ffn: usize) {
    let tile_rows = rows.min(64);
    area.phase("embed");
    let x = area.take("x", rows * hidden * 4);
    let rope = area.take("rope", rows * 64 * 4);
    for _ in 0..n_layers {
        area.phase("attention");
        let q = area.take("q", rows * hidden * 4);
        let normed = area.take("normed", rows * hidden * 9 / 8);
        area.give(normed);
        let scores = area.take("scores", 8 * 2048 * 4);
        area.give(scores);
        let packed = area.take("packed", rows * hidden * 9 / 8);
        area.give(packed);
        area.give(q);
        area.phase("mlp");
        let mark = area.mark();
        area.rewind(mark);
        let normed = area.take("normed", tile_rows * hidden * 9 / 8);
        let gate = area.take("gate", tile_rows * ffn * 4);
        let up = area.take("up", tile_rows * ffn * 4);
        area.give(normed);
        let packed = area.take("packed", tile_rows * ffn * 9 / 8);
        area.give(up);
        area.give(gate);
        area.give(packed);
    }
    area.phase("head");
    area.give(rope);
    let logits = area.take("logits", 16 * 49_152 * 4);
    area.give(x);
    area.give(logits);
}

fn entry(bytes: u64, begin: u32, end: u32) -> Entry {
    Entry { name: "r", bytes, begin, end, until_request: u32::MAX, offset: 0 }
}

fn assert_disjoint(plan: &Plan) {
    for (i, a) in plan.entries().iter().enumerate() {
        assert_eq!(a.offset % plan.alignment(), 0);
        assert!(a.offset + a.bytes <= plan.total_bytes());
        for b in &plan.entries()[..i] {
            let together = a.begin <= b.end && b.begin <= a.end;
            let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
            assert!(!together || apart || a.bytes == 0 || b.bytes == 0, "{a:?} lies over {b:?}");
        }
    }
}

#[test]
fn a_decoder_needs_no_more_than_lives_at_one_time() {
    for (rows, hidden, ffn) in
        [(1, 576, 1536), (512, 576, 1536), (512, 2048, 8192), (512, 4096, 14_336), (37, 640, 2048)]
    {
        let mut area = Area::tracing(64);
        trace_decoder(&mut area, 6, rows, hidden, ffn);
        let plan = area.into_plan();
        assert_disjoint(&plan);
        assert_eq!(plan.total_bytes(), plan.lower_bound(), "{rows} rows of {hidden}");
    }
}

#[test]
fn the_number_of_layers_does_not_matter() {
    let total = |n_layers| {
        let mut area = Area::tracing(64);
        trace_decoder(&mut area, n_layers, 512, 576, 1536);
        area.into_plan().total_bytes()
    };
    assert_eq!(total(1), total(30));
}

/// Random lifetimes: never an overlap, the same plan each time, and seldom far above the lower bound.
#[test]
fn random_lifetimes_never_overlap() {
    let mut state = 1u64;
    let mut random = |below: u32| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % u64::from(below)) as u32
    };
    for round in 0..300 {
        let alignment = 1 << random(9);
        let n = random(40);
        let entries: Vec<Entry> = (0..n)
            .map(|_| {
                let begin = random(50);
                let bytes = if random(8) == 0 { 0 } else { u64::from(random(5000)) };
                entry(bytes, begin, begin + random(20))
            })
            .collect();
        let plan = Plan::pack(entries.clone(), Vec::new(), 100, alignment);
        assert_disjoint(&plan);
        assert!(plan.total_bytes() >= plan.lower_bound());
        assert!(plan.total_bytes() <= plan.lower_bound() * 3 / 2, "round {round}");
        assert_eq!(plan, Plan::pack(entries, Vec::new(), 100, alignment));
    }
}

#[test]
fn sizes_that_overflow_give_a_plan_that_cannot_be_had() {
    let entries = vec![entry(u64::MAX - 1, 0, 9), entry(u64::MAX - 1, 1, 9)];
    let plan = Plan::pack(entries, Vec::new(), 9, 64);
    assert_eq!((plan.total_bytes(), plan.lower_bound()), (u64::MAX, u64::MAX));
}

#[test]
fn nothing_asked_nothing_planned() {
    let plan = Area::tracing(64).into_plan();
    assert_eq!((plan.total_bytes(), plan.lower_bound(), plan.bookkeeping_bytes()), (0, 0, 0));
    let mut area = Area::tracing(64);
    let empty = area.take("empty", 0);
    let one = area.take("one", 1);
    area.give(empty);
    area.give(one);
    assert_eq!(area.into_plan().total_bytes(), 64);
}

#[test]
fn what_is_never_given_back_lives_to_the_end() {
    let mut area = Area::tracing(64);
    let _kept = area.take("kept", 100);
    let last = area.take("last", 100);
    area.give(last);
    assert_disjoint(&area.into_plan());
}

/// The planned area gives the traced offsets, also for smaller batches and more rounds of a loop.
#[test]
fn passes_get_the_planned_offsets() {
    let mut area = Area::tracing(64);
    trace_decoder(&mut area, 2, 512, 576, 1536);
    let plan = area.into_plan();
    let mut area = Area::planned(&plan);
    for rows in [512, 1, 7] {
        area.begin();
        trace_decoder(&mut area, 2, rows, 576, 1536);
    }
    area.begin();
    let x = area.take("x", 12);
    assert_eq!((x.offset(), x.bytes()), (plan.entries()[0].offset, 12));
    let mark = area.mark();
    for _ in 0..3 {
        area.rewind(mark);
        let rope = area.take("rope", 4);
        assert_eq!(rope.offset(), plan.entries()[1].offset);
        area.give(rope);
    }
}

fn small_plan() -> Plan {
    let mut area = Area::tracing(64);
    let a = area.take("a", 100);
    area.give(a);
    area.into_plan()
}

#[test]
#[should_panic(expected = "request 0 is b with 4 bytes, planned was a with 100")]
fn another_name_is_a_defect() {
    let _ = Area::planned(&small_plan()).take("b", 4);
}

#[test]
#[should_panic(expected = "request 0 is a with 101 bytes, planned was a with 100")]
fn more_bytes_are_a_defect() {
    let _ = Area::planned(&small_plan()).take("a", 101);
}

#[test]
#[should_panic(expected = "request 1 (a) was not traced")]
fn one_more_request_is_a_defect() {
    let mut area = Area::planned(&small_plan());
    let _ = area.take("a", 100);
    let _ = area.take("a", 100);
}

/// While tracing, `b` came after `a` was given back and may lie over it.
#[test]
#[should_panic(expected = "a is given back before request 2, planned was 1")]
fn a_region_held_longer_than_traced_is_a_defect() {
    let mut area = Area::tracing(64);
    for name in ["a", "b"] {
        let region = area.take(name, 100);
        area.give(region);
    }
    let mut area = Area::planned(&area.into_plan());
    let a = area.take("a", 100);
    let _b = area.take("b", 100);
    area.give(a);
}

#[test]
fn a_region_may_be_given_back_earlier_than_traced() {
    let mut area = Area::tracing(64);
    let _a = area.take("a", 100);
    let _b = area.take("b", 100);
    let mut area = Area::planned(&area.into_plan());
    let a = area.take("a", 100);
    area.give(a);
    let b = area.take("b", 100);
    area.give(b);
}

#[test]
#[should_panic(expected = "one pass is traced")]
fn a_second_traced_pass_is_a_defect() {
    let mut area = Area::tracing(64);
    area.begin();
    let _ = area.take("a", 100);
    area.begin();
}

#[test]
fn the_picture_shows_one_layer_and_the_head() {
    let mut area = Area::tracing(64);
    trace_decoder(&mut area, 30, 512, 576, 1536);
    let plan = area.into_plan();
    let svg = plan.svg("a <model> & more");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("a &lt;model&gt; &amp; more"));
    assert!(svg.contains("29 more layers like this one"));
    for phase in ["embed", "attention", "mlp", "head"] {
        assert_eq!(svg.matches(&format!(">{phase}</text>")).count(), 1, "{phase}");
    }
    let one_layer = {
        let mut area = Area::tracing(64);
        trace_decoder(&mut area, 1, 512, 576, 1536);
        area.into_plan().svg("one")
    };
    assert_eq!(svg.matches("<g>").count(), one_layer.matches("<g>").count());
    assert!(!one_layer.contains("more layers"));
    assert!(Area::tracing(64).into_plan().svg("nothing").ends_with("</svg>\n"));
}
