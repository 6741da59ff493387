//! Templates that nest values as deep as they can, and real idioms that must not be mistaken for one.

use serde_json::json;

use super::super::ChatTemplate;
use crate::call::Conversation;
use crate::tools::{HERMES, Voice};

fn render(template: &str) -> Result<String, String> {
    let told = |error: minijinja::Error| error.detail().unwrap_or_default().to_owned();
    let messages = [
        json!({ "role": "system", "content": "Be brief." }),
        json!({ "role": "user", "content": "Hi" }),
    ];
    let voice = Voice { format: &HERMES, tokens: Vec::new() };
    let conversation = Conversation { messages: messages.to_vec(), ..Conversation::default() };
    let template = ChatTemplate::new(template).map_err(told)?;
    template.render(&conversation, &serde_json::Map::new(), &voice).map_err(told)
}

/// What a template does with a list that it nested deeply.
const USES: &[&str] = &[
    "{{ deep }}",
    "{{ deep|tojson }}",
    "{{ deep|string }}",
    "{{ deep|list|string }}",
    "{{ '%s' % deep }}{{ '%s'|format(deep) }}",
    "{{ deep == [deep] }}",
    "{{ deep in [[deep], [[deep]]] }}",
    "{{ [deep, [deep]]|sort }}",
    "{{ [deep, [deep]]|unique|list }}",
    "{{ {deep: 1}[deep] }}",
    "{{ deep|pprint }}",
    "{{ deep|map('string')|join }}",
    "{{ raise_exception(deep) }}",
    "{{ deep.nothing.at.all }}",
    "kept, and dropped",
];

/// Ways to nest without end: each binds `deep`.
const NESTS: &[&str] = &[
    "{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = [ns.x] %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x={}) %}{% for i in range(10000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=(1,)) %}{% for i in range(10000) %}{% set ns.x = (ns.x, i) %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x={}) %}{% for i in range(10000) %}{% set ns.x = {(ns.x,): 1} %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% set ns.x, y = [ns.x], 1 %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{%- set ns.x = [ns.x] if true else '%}' -%}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% set ns.x = ns.x|batch(1)|list %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(n=1) %}{% for i in range(10000) %}{% set ns = namespace(x=ns) %}{% endfor %}{% set deep = ns %}",
    "{% set ns = namespace(n=1) %}{% for i in range(10000) %}{% set ns = namespace({'x': ns}) %}{% endfor %}{% set deep = ns %}",
    "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{% set deep = ns %}",
    "{% set ns = namespace(x=1) %}{% set ns.x = [{'a': ns}] %}{% set deep = ns %}",
    "{% set ns = namespace(x=1) %}{% set other = namespace(x=ns) %}{% set ns.x = other %}{% set deep = ns %}",
    "{% set ns = namespace(x=[]) %}{% macro nest(x, n) %}{% set ns.x = [x] %}{% if n > 0 %}{{ nest([ns.x], n - 1) }}{% endif %}{% endmacro %}{% for i in range(10000) %}{{ nest(ns.x, 9) }}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[]) %}{% macro outer() %}{{ caller([ns.x]) }}{% endmacro %}{% for i in range(10000) %}{% call(x) outer() %}{% if ns %}{% set ns.x = [x] %}{% endif %}{% endcall %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% for y in [ns.x] %}{% set ns.x = [y] %}{% endfor %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% with y = [ns.x], z = [y] %}{% set ns.x = z %}{% endwith %}{% endfor %}{% set deep = ns.x %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(10000) %}{% for y in [ns.x] %}{% set ns.x = loop %}{% endfor %}{% endfor %}{% set deep = ns.x %}",
];

#[test]
fn a_template_that_nests_without_end_is_refused_whatever_it_does_with_it() {
    for nest in NESTS {
        for used in USES {
            let refused = render(&format!("{nest}{used}"));
            let refused = refused.expect_err(nest);
            assert!(refused.contains("the chat template is refused"), "{nest}: {refused}");
        }
    }
}

#[test]
fn a_text_that_binds_a_name_again_and_again_nests_no_deeper() {
    let again = "{% set deep = [deep] %}".repeat(5_000);
    for used in USES {
        let refused = render(&format!("{{% set deep = 1 %}}{again}{used}")).unwrap_err();
        assert!(refused.contains("deeper than 256"), "{refused}");
    }
}

#[test]
fn the_deepest_values_there_can_be_are_used_and_dropped() {
    let deepest = "{% set ns = namespace(x=[1]) %}{% for i in range(250) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for step in ["|reverse", "|batch(1)", "[::-1]", "|list", "|map('list')", "|slice(1)"] {
        // As many as fit into one tag: a name, its field, and what is asked.
        let tokens = step.chars().filter(|c| !c.is_alphabetic()).count() + 1;
        let chain = step.repeat(1_900 / tokens);
        for used in ["", "|string|length", "|tojson|length", " == [[ns.x]]", "|list|length"] {
            let used = format!("{deepest}{{{{ 'a' if (ns.x{chain}{used}) else 'b' }}}}");
            // Some write more than a rendering may, or cannot be read by this filter; none ends the process.
            let _ = render(&used);
        }
        let looped = format!(
            "{deepest}{{% for y in ns.x{chain} %}}{{{{ [[loop.nextitem, y]] }}}}{{% endfor %}}"
        );
        let _ = render(&looped);
    }
    let batches = "|batch(1)".repeat(380);
    let text = render(&format!("{deepest}{{{{ ns.x{batches} }}}}")).unwrap();
    assert!(text.starts_with(&"[".repeat(251 + 380)), "{text}");
}

#[test]
fn a_template_that_cannot_be_bounded_is_refused_when_it_is_read() {
    let elif = format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(20_000));
    let chain = format!("{{{{ a{} }}}}", "|trim".repeat(20_000));
    let sum = format!("{{{{ a{} }}}}", " ~ a".repeat(20_000));
    for (template, problem) in [
        (&*elif, "too many branches"),
        (&*chain, "tags is too long"),
        (&*sum, "tags is too long"),
        ("{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "recursive loop"),
        ("{% for x in [1] %}{% for y in [loop] %}{% endfor %}{% endfor %}", "`loop` as a value"),
        ("{% include 'chat' %}", "another template for `include`"),
        ("{% import 'chat' as chat %}", "another template for `import`"),
    ] {
        let refused = render(template).unwrap_err();
        assert!(refused.contains(problem), "{problem}: {refused}");
    }
}

#[test]
fn what_real_templates_keep_is_as_it_was() {
    for (template, expected) in [
        (
            "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = m.role == 'user' %}{% endfor %}{{ ns.found }}",
            "True",
        ),
        (
            "{%- set ns = namespace(all=[]) -%}\n{%- for m in messages -%}\n  {%- set ns.all = ns.all + [m] -%}\n{%- endfor -%}\n{{ ns.all|length }}{{ ns.all[1].content }}",
            "2Hi",
        ),
        ("{% set messages = messages[1:] %}{{ messages[0].content }}{{ messages|length }}", "Hi1"),
        ("{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]"),
        ("{% set a = (1, 'x') %}{{ a }}", "(1, 'x')"),
        (
            "{% set d = {'b': 1, 'a': {'z': none}} %}{{ d|tojson }}{% for k, v in d.items() %}{{ k }}{% endfor %}",
            "{\"b\": 1, \"a\": {\"z\": null}}ba",
        ),
        (
            "{% for m in messages %}{% set outer = loop %}{% for c in m.content %}{% if outer.last and loop.first %}{{ c }}{{ outer.index }}{% endif %}{% endfor %}{% endfor %}",
            "H2",
        ),
        (
            "{% macro show(text, mark='!', more=none) -%}\n  {{ text }}{{ mark }}{{ more is none }}\n{%- endmacro %}{{ show('a') }}{{ show('b', mark='?') }}",
            "a!Trueb?True",
        ),
        ("{% macro may(x) %}{{ x is defined }}{% endmacro %}{{ may() }}{{ may(1) }}", "FalseTrue"),
        ("{% with a = 1, b = [a, {'c': 2}] %}{{ b[1].c }}{% endwith %}", "2"),
        (
            "{% macro outer() %}<{{ caller('x') }}>{% endmacro %}{% call(a) outer() %}{{ a }}{% endcall %}",
            "<x>",
        ),
        ("{% set text %}a{{ 1 }}{% endset %}{{ text }}", "a1"),
        ("{% set text | replace('a', 'b') %}aa{% endset %}{{ text }}", "bb"),
        ("{% set ns = namespace() %}{% set other = ns %}{% set other.x = 3 %}{{ ns.x }}", "3"),
        ("{% set ns = namespace({'x': [1]}) %}{{ ns.x }}", "[1]"),
        ("{% set show = raise_exception %}{{ 'a' if show else 'b' }}", "a"),
        ("{% raw %}{% set x = %}{% endraw %}", "{% set x = %}"),
        ("{% for m in messages -%}\n  {{ m.role[0] }}\n{%- endfor %}\n.", "su."),
        ("{% for m in messages if m.role == 'user' %}\n{{ m.content }}\n{% endfor %}", "Hi\n"),
        ("{% set x = missing %}{{ x is defined }}{{ (x or 'none') }}", "Falsenone"),
        ("{% set s = '%}' %}{{ s }}", "%}"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}
