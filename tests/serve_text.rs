//! Text on its whole way: drawn tokens → bytes → characters → stops → events (S11).

mod serve_common;

use larder::backend::ops::SampleRow;
use larder::ids::TokenId;
use larder::serve::{Prompt, RequestInput};
use serve_common::*;

/// After a prompt `[n]`, the tokens n, n + 1, … 9, then the stop token.
fn count_up(history: &[TokenId], _: &SampleRow<'_>) -> larder::backend::ops::SampleResult {
    let next = history[0].0 + history.len() as u32 - 1;
    token(if next < 10 { next } else { STOP.0 })
}

/// Draws `tokens` (at most 10) and the stop token; every event's text and the end.
fn drawn(
    tokens: &[&str],
    stops: &[&str],
    max_new: u32,
) -> (Vec<String>, Option<larder::serve::EventKind>) {
    let mut all = vec!["unused"; 10 - tokens.len()];
    all.extend(tokens);
    let first = 10 - tokens.len() as u32;
    let text = text(&all);
    let mut ends = Vec::new();
    for capacity in [8, 1] {
        let mut host = Host::new(with_text(&text), Some(text.clone()), count_up);
        let prompt = ids(&[first]);
        host.submit(&RequestInput { stops, ..request(&prompt, max_new, 1) }).unwrap();
        let told = host.run(1, capacity);
        let (_, whole, end) = answer(&told, 1, 0);
        let pieces: Vec<_> = told.into_iter().map(|event| event.text).collect();
        assert_eq!(pieces.concat(), whole);
        ends.push((pieces, end));
    }
    assert_eq!(ends[0], ends[1]);
    ends.remove(0)
}

#[test]
fn text_without_stops_comes_at_once() {
    let (pieces, end) = drawn(&["Hello", "▁", "world"], &[], 0);
    assert_eq!((pieces.concat().as_str(), end), ("Hello world", STOPPED));
    assert_eq!(pieces, ["Hello", " ", "world", ""]);
}

#[test]
fn a_stop_over_several_tokens_never_leaks() {
    let (pieces, end) = drawn(&["ABC", "DE", "F", "GX", "Y"], &["DEFG"], 0);
    assert_eq!(
        (pieces, end),
        (vec!["ABC".into(), "".into(), "".into(), "".into(), "".into()], STOPPED)
    );
    // The token that completes it is told, what would follow is not drawn.
    let (pieces, _) = drawn(&["AD", "E", "FG", "Y"], &["nothing", "DEFG"], 0);
    assert_eq!(pieces, ["A", "", "", ""]);
}

#[test]
fn held_text_is_delivered_when_it_cannot_match() {
    let (pieces, end) = drawn(&["AD", "E", "DEX", "Y"], &["DEFG"], 0);
    assert_eq!(
        (pieces, end),
        (vec!["A", "", "DEDEX", "Y", ""].into_iter().map(Into::into).collect(), STOPPED)
    );
}

#[test]
fn held_text_is_delivered_at_every_kind_of_end() {
    let (pieces, end) = drawn(&["AD", "E"], &["DEFG"], 0);
    assert_eq!((pieces, end), (vec!["A".into(), "".into(), "DE".into()], STOPPED));
    let (pieces, end) = drawn(&["AD", "E", "FG"], &["DEFG"], 2);
    assert_eq!((pieces, end), (vec!["A".into(), "".into(), "DE".into()], FULL));
    let mut host = {
        let text = text(&["AD", "E"]);
        Host::new(with_text(&text), Some(text), |_, row| token(row.output.len() as u32))
    };
    let prompt = ids(&[9]);
    let input = RequestInput { stops: &["DEFG"], ..request(&prompt, 9, 1) };
    let handle = host.submit(&input).unwrap();
    let mut told = host.step(8);
    told.extend(host.step(8));
    host.edge.cancel(handle).unwrap();
    told.extend(host.step(8));
    assert_eq!(answer(&told, 1, 0), (vec![0, 1], "ADE".into(), CANCELLED));
}

#[test]
fn the_stop_that_ends_first_wins() {
    assert_eq!(drawn(&["xa", "bc"], &["abc", "ab"], 0).0, ["x", "", ""]);
    assert_eq!(drawn(&["xab", "c"], &["abc", "b"], 0).0, ["xa", ""]);
    // A stop inside one token, and text that is part of a stop only.
    assert_eq!(drawn(&["1stop2"], &["stop"], 0).0, ["1", ""]);
    assert_eq!(drawn(&["as", "▁", "sto"], &["basis", "stops"], 0).0.concat(), "as sto");
}

#[test]
fn characters_are_never_split() {
    // "€" is E2 82 AC, in three tokens; text comes with the last.
    let euro = ["a", "<0xE2>", "<0x82>", "<0xAC>", "b"];
    assert_eq!(drawn(&euro, &[], 0).0, ["a", "", "", "€", "b", ""]);
    assert_eq!(drawn(&euro, &["€"], 0).0, ["a", "", "", "", ""]);
    assert_eq!(drawn(&euro, &["€c"], 0).0, ["a", "", "", "", "€b", ""]);
    // What cannot become one is U+FFFD, at the end too.
    assert_eq!(drawn(&["a", "<0xE2>", "<0x82>", "b"], &[], 0).0.concat(), "a\u{fffd}b");
    assert_eq!(drawn(&["a", "<0xE2>", "<0x82>"], &[], 0).0, ["a", "", "", "\u{fffd}"]);
    assert_eq!(drawn(&["<0xF0>", "<0x9F>", "<0xE2>"], &[], 2).0.concat(), "\u{fffd}");
}

#[test]
fn stops_as_long_as_allowed() {
    let long = "x".repeat(256);
    let half = "x".repeat(128);
    let (pieces, end) = drawn(&["a", &half, &half[1..], "b"], &[&long], 0);
    assert_eq!((pieces.concat(), end), (format!("a{}b", &long[1..]), STOPPED));
    let (pieces, _) = drawn(&["a", &half, &half, "b"], &[&long, "b"], 0);
    assert_eq!(pieces, ["a", "", "", ""]);
}

#[test]
fn two_answers_do_not_mix_their_text() {
    let text = text(&["a", "<0xC3>", "<0xA4>", "S", "T"]);
    // Answer 0: "äST"; answer 1 with the next seed: "aaST" without its stop.
    let mut host = Host::new(with_text(&text), Some(text), |_, row| {
        let odd = [[1, 2, 3, 4], [0, 0, 3, 0]][row.sampling.seed as usize % 2];
        token(odd[row.output.len()])
    });
    let prompt = ids(&[9, 9]);
    let input = RequestInput { n_answers: 2, stops: &["ST"], ..request(&prompt, 4, 1) };
    host.submit(&input).unwrap();
    let told = host.run(2, 1);
    assert_eq!(answer(&told, 1, 0), (vec![1, 2, 3, 4], "ä".into(), STOPPED));
    assert_eq!(answer(&told, 1, 1), (vec![0, 0, 3, 0], "aaSa".into(), FULL));
}

#[test]
fn a_prompt_given_as_text_is_tokenised() {
    let text = text(&["a", "b", "▁"]);
    let mut host = Host::new(with_text(&text), Some(text), |history, _| {
        assert_eq!(history[..3], ids(&[0, 2, 1]));
        token(0)
    });
    let prompt = Prompt::Text { text: "a b", parse_special: false };
    host.submit(&RequestInput { prompt, max_new_tokens: 2, ..Default::default() }).unwrap();
    let told = host.run(1, 8);
    assert_eq!(answer(&told, 0, 0), (vec![0, 0], "aa".into(), FULL));
    assert_eq!(told[0].n_prompt_tokens, 3);
    let prompt = Prompt::Text { text: "", parse_special: false };
    let error = host.submit(&RequestInput { prompt, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("the prompt is empty"));
}
