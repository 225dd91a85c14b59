//! RoPE in all its spellings, and its frequencies against those of transformers.

use crate::edit::Expect::{Bad, Unsupported, Works};
use crate::edit::{Edit, assert_outcome};
use crate::golden::{Runner, folder};
use larder::model::rope::{RopeSpec, Scaling};
use serde_json::{Value, json};

/// llama with only the old keys: `rope_theta` and this `rope_scaling`.
fn with_scaling(scaling: &str) -> Edit {
    Edit::new(&folder("llama")).config(&format!(
        r#"{{"rope_parameters": "-", "rope_theta": 10000.0, "rope_scaling": {scaling}}}"#
    ))
}

fn rope_of(edit: &Edit) -> RopeSpec {
    let spec = edit.describe().unwrap().spec;
    assert_eq!(spec.ropes.len(), 1);
    spec.ropes[0].clone()
}

#[test]
fn frequencies_are_those_of_transformers() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rope.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let numbers = |key: &str| -> Vec<f64> {
            case[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
        };
        let patch = json!({
            "rope_parameters": "-",
            "rope_theta": case["theta"],
            "rope_scaling": case["scaling"],
            "max_position_embeddings": case["context"],
        });
        let rope = rope_of(&Edit::new(&folder("llama")).config(&patch.to_string()));
        let longest = case["max_sequence_tokens"].as_u64().unwrap() as u32;
        let (ours, theirs) = (rope.inverse_frequencies(longest), numbers("inverse_frequencies"));
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            // transformers computes in f32
            let error = (f64::from(*ours) / theirs - 1.0).abs();
            assert!(error < 1e-6, "{case}: {ours}, expected {theirs}");
        }
        let error = f64::from(rope.magnitude()) - case["magnitude"].as_f64().unwrap();
        assert!(error.abs() < 1e-6, "{case}: magnitude {}", rope.magnitude());
    }
}

#[test]
fn scalings_are_read_or_refused() {
    let llama3 = r#""factor": 8, "low_freq_factor": 1, "high_freq_factor": 4"#;
    let original = r#""original_max_position_embeddings": 64"#;
    let factors = r#""short_factor": [1,1,1,1,1,1,1,1], "long_factor": [2,2,2,2,2,2,2,2]"#;
    let cases = [
        ("null".into(), Works),
        (r#"{"type": "linear", "factor": 2}"#.into(), Works),
        (r#"{"rope_type": "linear", "factor": 2.5}"#.into(), Works),
        (r#"{"type": "default"}"#.into(), Works),
        (r#"{"rope_type": "linear", "type": "linear", "factor": 2}"#.into(), Works),
        (format!(r#"{{"rope_type": "longrope", "type": "su", {factors}, {original}}}"#), Works),
        (format!(r#"{{"type": "su", {factors}, {original}}}"#), Works),
        (format!(r#"{{"rope_type": "llama3", {llama3}, {original}}}"#), Works),
        (r#"{"rope_type": "linear", "type": "yarn", "factor": 2}"#.into(), Bad("rope_type")),
        (r#"{"rope_type": "mrope", "factor": 2}"#.into(), Unsupported("\"mrope\"")),
        (r#"{"rope_type": "linear"}"#.into(), Bad("factor is missing")),
        (r#"{"factor": 2.0}"#.into(), Bad("rope_type is missing")),
        (r#"{"rope_type": "linear", "factor": 0}"#.into(), Bad("factor is 0")),
        (r#"{"rope_type": "linear", "factor": -1}"#.into(), Bad("factor is -1")),
        (r#"{"rope_type": "linear", "factor": "2"}"#.into(), Bad("factor")),
        (r#"{"rope_type": 3, "factor": 2}"#.into(), Bad("rope_type")),
        (r#"{"rope_type": "linear", "factor": 2, "twist": 1}"#.into(), Unsupported("twist")),
        (r#"{"rope_type": "default", "factor": 2}"#.into(), Unsupported("factor")),
        (r#"{"rope_type": "yarn", "factor": 2}"#.into(), Bad("original_max_position_embeddings")),
        (format!(r#"{{"rope_type": "llama3", {llama3}}}"#), Bad("original_max_position")),
        (
            format!(r#"{{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, {original}}}"#),
            Bad("high_freq_factor is missing"),
        ),
        (
            format!(
                r#"{{"rope_type": "longrope", "short_factor": [1], "long_factor": [1], {original}}}"#
            ),
            Bad("short_factor has 1 numbers, expected 8"),
        ),
        ("7".into(), Bad("rope_scaling")),
    ];
    for (scaling, expected) in cases {
        assert_outcome(&scaling, expected, with_scaling(&scaling).describe());
    }
}

/// The old keys and transformers 5's mean the same, and may not contradict each other.
#[test]
fn both_spellings_are_one() {
    let old =
        with_scaling(r#"{"type": "linear", "factor": 4.0}"#).config(r#"{"rope_theta": 500000.0}"#);
    let parameters = r#"{"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}"#;
    let new =
        Edit::new(&folder("llama")).config(&format!(r#"{{"rope_parameters": {parameters}}}"#));
    let expected = rope_of(&old);
    assert_eq!((expected.theta, &expected.scaling), (500000.0, &Scaling::Linear { factor: 4.0 }));
    assert_eq!(rope_of(&new), expected);

    let both = |scaling: &str, theta: &str| {
        let patch = format!(
            r#"{{"rope_parameters": {parameters}, "rope_scaling": {scaling}, "rope_theta": {theta}}}"#
        );
        Edit::new(&folder("llama")).config(&patch)
    };
    let same = r#"{"type": "linear", "factor": 4}"#;
    assert_eq!(rope_of(&both(same, "500000")), expected);
    assert_eq!(rope_of(&both(same, "null")), expected);
    for (scaling, theta) in [
        (same, "10000"),
        (r#"{"type": "linear", "factor": 2}"#, "500000"),
        (r#"{"type": "dynamic", "factor": 4}"#, "500000"),
    ] {
        let case = format!("{scaling}, {theta}");
        assert_outcome(&case, Bad(""), both(scaling, theta).describe());
    }

    // Not the specs alone: logits too.
    let tokens: Vec<u32> = (0..40).map(|i| 3 + i * 7 % 120).collect();
    let logits = |edit: &Edit| {
        let files = edit.write();
        Runner::open(files.path(), 64).unwrap().append(&tokens).unwrap()
    };
    assert_eq!(logits(&old), logits(&new));
    assert_ne!(logits(&old), logits(&Edit::new(&folder("llama"))));
}

#[test]
fn gemma3_has_a_rope_for_each_type_of_layer() {
    let spec = |patch: &str| Edit::new(&folder("gemma3")).config(patch).describe();
    let new = spec("{}").unwrap().spec;
    let thetas: Vec<f32> = new.ropes.iter().map(|rope| rope.theta).collect();
    assert_eq!(thetas, [1e6, 1e4]);
    let ropes: Vec<usize> = new.layers.iter().map(|layer| layer.attention.rope).collect();
    assert_eq!(ropes, [1, 0, 1]);
    let old = r#"{"rope_parameters": "-", "rope_theta": 1000000, "rope_local_base_freq": 10000}"#;
    assert_eq!(spec(old).unwrap().spec, new);
    let scaled =
        r#"{"rope_parameters": "-", "rope_scaling": {"rope_type": "linear", "factor": 8}}"#;
    let scaled = spec(scaled).unwrap().spec;
    assert_eq!(scaled.ropes[0].scaling, Scaling::Linear { factor: 8.0 });
    assert_eq!(scaled.ropes[1], new.ropes[1]);
    for (patch, expected) in [
        (r#"{"rope_parameters": {"full_attention": {}}}"#, Bad("no sliding_attention")),
        (r#"{"rope_parameters": {"rope_theta": 5.0}}"#, Bad("rope_theta")),
        (r#"{"rope_local_base_freq": 5000}"#, Bad("rope_theta")),
        (r#"{"rope_scaling": {"type": "linear", "factor": 2}}"#, Bad("contradict")),
    ] {
        assert_outcome(patch, expected, spec(patch));
    }
}

#[test]
fn parts_of_the_head() {
    let dims = |name: &str, patch: &str| {
        let spec = Edit::new(&folder(name)).config(patch).describe()?.spec;
        Ok(spec.ropes[0].dim)
    };
    let phi3 = |value: &str| {
        dims("phi3", &format!(r#"{{"rope_parameters": "-", "partial_rotary_factor": {value}}}"#))
    };
    assert_eq!(phi3("0.75").unwrap(), 12);
    assert_eq!(phi3("1").unwrap(), 16);
    assert_outcome("odd", Bad("partial_rotary_factor"), phi3("0.7"));
    assert_outcome("none", Bad("partial_rotary_factor"), phi3("0"));
    assert_outcome("more", Unsupported("partial_rotary_factor"), phi3("1.5"));
    let llama = dims("llama", r#"{"partial_rotary_factor": 0.5}"#);
    assert_outcome("llama", Unsupported("partial_rotary_factor"), llama);
}
