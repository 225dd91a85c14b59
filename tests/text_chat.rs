//! Chat templates against what transformers' own Jinja environment renders.

mod text_support;

use larder::error::Error;
use larder::text::Text;
use text_support::{byte_level_text, data, json};

fn with_template(template: &str) -> Text {
    byte_level_text(|source| {
        source.chat_template = Some(template.into());
        source.template_variables =
            [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .to_vec();
    })
}

fn render(template: &str, input: &str) -> Result<String, Error> {
    with_template(template).render_chat(input)
}

/// The text of an expression.
fn expression(source: &str) -> String {
    render(&format!("{{{{ {source} }}}}"), "[]").unwrap()
}

#[test]
fn templates_of_models_equal_transformers() {
    let mut n = 0;
    for row in json("chat_golden.json").as_array().unwrap() {
        let name = row["template"].as_str().unwrap();
        let source = String::from_utf8(data(&format!("templates/{name}"))).unwrap();
        // Inside messages, control tokens would be marked; none of these has any.
        let got = render(&source, &row["input"].to_string());
        assert_eq!(got.ok().as_deref(), row["text"].as_str(), "{name}, {}", row["conversation"]);
        n += 1;
    }
    assert!(n >= 28);
}

#[test]
fn a_bare_array_is_the_messages() {
    let template = "{% for m in messages %}{{ m.content }};{% endfor %}{{ add_generation_prompt }}";
    assert_eq!(render(template, r#"[{"content": "a"}, {"content": "b"}]"#).unwrap(), "a;b;True");
    let input = r#"{"messages": [], "add_generation_prompt": false, "bos_token": "own"}"#;
    assert_eq!(render("{{ add_generation_prompt }}{{ bos_token }}", input).unwrap(), "Falseown");
}

#[test]
fn bad_conversations_are_refused() {
    for input in
        ["", "{", "3", "null", "\"x\"", "{}", "{\"messages\": 3}", "[1]", "{\"messages\": null}"]
    {
        let Err(Error::InvalidArgument(message)) = render("x", input) else { panic!("{input}") };
        assert!(message.starts_with("messages"), "{message}");
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(render("x", &nested).is_err());
    assert!(matches!(byte_level_text(|_| {}).render_chat("[]"), Err(Error::Unsupported(_))));
}

#[test]
fn errors_name_the_line() {
    let broken = |template: &str| {
        let mut result = None;
        // Compiling fails in `Text::new`, which the helper unwraps.
        let text = text_support::Arrays::byte_level();
        let mut source = text.source("gpt2", None);
        source.chat_template = Some(template.into());
        result.replace(Text::new(&source).err());
        result.flatten()
    };
    let error = broken("a\nb {% if %}").unwrap();
    assert!(matches!(&error, Error::BadModel(text) if text.contains("line 2")), "{error}");
    let error = render("a\n\n{{ raise_exception('no system ' ~ 'role') }}", "[]").unwrap_err();
    assert!(error.to_string().contains("line 3: no system role"), "{error}");
    let error = render("\n{{ messages.foo.bar }}", "[]").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    let error = render("{{ strftime_now('%Q') }}", "[]").unwrap_err();
    assert!(error.to_string().contains("%Q"), "{error}");
    let error = render("{{ nonesuch() }}", "[]").unwrap_err();
    assert!(error.to_string().contains("nonesuch"), "{error}");
}

#[test]
fn a_render_ends() {
    let endless = "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}\
                   {% endfor %}{% endfor %}{% endfor %}";
    let error = render(endless, "[]").unwrap_err();
    assert!(error.to_string().contains("instructions"), "{error}");
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(render(recursive, "[]"), Err(Error::InvalidArgument(_))));
    assert!(render("{{ 'x' * 99999999999 }}", "[]").is_err());
}

#[test]
fn values_print_as_in_python() {
    for (source, expected) in [
        ("none", "None"),
        ("true", "True"),
        ("1.0", "1.0"),
        ("100.0 * 3", "300.0"),
        ("1e16", "1e+16"),
        ("0.1 + 0.2", "0.30000000000000004"),
        ("-0.0", "-0.0"),
        ("[none, true, 'a\\'b', \"q\"]", "[None, True, \"a'b\", 'q']"),
        ("{'a': {'b': []}}", "{'a': {'b': []}}"),
        ("[1, 2] | string | length", "6"),
        ("'é\\n' | tojson(ensure_ascii=true)", "\"\\u00e9\\n\""),
        ("{'b': 1, 'a': 2} | tojson(sort_keys=true, separators=[',', ':'])", "{\"a\":2,\"b\":1}"),
        ("missing", ""),
        ("missing is defined", "False"),
        ("strftime_now('%Y') | length", "4"),
    ] {
        assert_eq!(expression(source), expected, "{source}");
    }
}

#[test]
fn generation_marks_are_ignored() {
    let template =
        "a\n  {%- generation -%}  b  {%- endgeneration %} c {% generation %}\nd{% endgeneration %}";
    assert_eq!(render(template, "[]").unwrap(), "ab c d");
    assert_eq!(render("{{ 'generation' }}", "[]").unwrap(), "generation");
}
