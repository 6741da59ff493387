//! Idioms of real templates, and conversations with tools.

use super::*;
use crate::tools::Voice;

fn render(template: &str, messages: &Value, tools: &Value) -> Result<String, String> {
    let mut template = ChatTemplate::new(template).map_err(|error| error.to_string())?;
    template.bos_token = "<s>".to_owned();
    template.eos_token = "</s>".to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (messages, tools) = (list(messages), list(tools));
    let conversation = Conversation { messages, tools, ..Conversation::default() };
    let rendered = template.render(&conversation, &Map::new(), &voice());
    rendered.map_err(|error| error.detail().unwrap_or_default().to_owned())
}

fn voice() -> Voice {
    Voice { format: &crate::tools::HERMES, tokens: Vec::new() }
}

fn chat() -> Value {
    json!([
        { "role": "system", "content": "  Be <brief>. " },
        { "role": "user", "content": "Hi" },
    ])
}

/// The text of `template` for a short chat.
fn text(template: &str) -> String {
    render(template, &chat(), &Value::Null).unwrap()
}

#[test]
fn functions_and_filters_of_real_templates_work() {
    for (template, expected) in [
        ("{{ bos_token }}{{ messages[0]['content'] | trim }}{{ eos_token }}", "<s>Be <brief>.</s>"),
        ("{{ messages[0].content.strip() }}", "Be <brief>."),
        ("{{ {'a': [1, '<x>'], 'b': none} | tojson }}", "{\"a\": [1, \"<x>\"], \"b\": null}"),
        ("{{ [1, {'a': true}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": true\n  }\n]"),
        (
            "{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=False, sort_keys=True) }}",
            "{\"a\": \"é\", \"b\": 1}",
        ),
        ("{{ {'a': 1} | tojson(separators=(',', ':')) }}", "{\"a\":1}"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "system",
        ),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "user",
        ),
        ("{% for m in messages[1:] %}{{ m.role }}{% endfor %}{{ messages[-1].role }}", "useruser"),
        ("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}", "usersystem"),
        (
            "{{ 'a' if tools is defined and tools else 'b' }}{{ 'c' if not tools is none else 'd' }}",
            "bd",
        ),
        ("{% macro say(m) %}[{{ m.role }}]{% endmacro %}{{ say(messages[1]) }}", "[user]"),
        (
            "{% if messages[1].content is string and messages is iterable and messages[0] is mapping %}x{% endif %}",
            "x",
        ),
        ("{{ 'a</think>b'.split('</think>')[-1].lstrip('\n') }}", "b"),
        ("{{ 'Hello'.startswith('He') and 'Hello'.endswith('lo') }}", "True"),
        ("{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "x1"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ messages | map(attribute='role') | join(',') }}", "system,user"),
        ("{%- generation -%} x {%- endgeneration -%}", "x"),
        ("{{ messages[0].get('name', 'nobody') }}{{ 'tool_calls' in messages[0] }}", "nobodyFalse"),
        ("{% if messages[0]['role'] == 'system' %}\n  {{- 'S' }}\n{% endif %}", "S\n"),
        ("{{ 'x' ~ 1 ~ 'y' }}{{ ['a', 'b'] + ['c'] }}", "x1y['a', 'b', 'c']"),
        ("{{ undefined_thing }}|{{ messages[1].nothing }}", "|"),
    ] {
        assert_eq!(text(template), expected, "{template}");
    }
}

#[test]
fn the_date_is_told_in_the_words_of_strftime() {
    let date = text("{{ strftime_now('%d %b %Y') }}");
    let parts: Vec<&str> = date.split(' ').collect();
    assert_eq!(
        (parts.len(), parts[0].len(), parts[1].len(), parts[2].len()),
        (3, 2, 3, 4),
        "{date}"
    );
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let template = "{{ raise_exception('no ' + messages[0].role) }}";
    assert_eq!(render(template, &chat(), &Value::Null).unwrap_err(), "no system");
}

fn weather() -> Value {
    json!([{ "type": "function", "function": { "name": "weather", "parameters": { "type": "object" } } }])
}

fn with_calls() -> Value {
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": { "city": "Rome" } } });
    json!([
        { "role": "user", "content": "Weather?" },
        { "role": "assistant", "content": "", "tool_calls": [call] },
        { "role": "tool", "content": "sunny", "tool_call_id": "call_1" },
        { "role": "tool", "content": "warm", "tool_call_id": "call_1" },
    ])
}

#[test]
fn arguments_are_the_object_that_templates_write() {
    let template = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{% endfor %}{{ tools | length }}";
    let rendered = render(template, &with_calls(), &weather()).unwrap();
    assert_eq!(rendered, "weather({\"city\": \"Rome\"})1");
}

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}";

#[test]
fn a_template_that_knows_no_tools_gets_them_in_words() {
    let rendered = render(PLAIN, &with_calls(), &weather()).unwrap();
    assert!(
        rendered
            .starts_with("<system>You can call these functions:\n<tools>\n{\"type\": \"function\""),
        "{rendered}"
    );
    assert!(rendered.ends_with("<user>Weather?\n<assistant><tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<user><tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>\n"), "{rendered}");
}

#[test]
fn tools_join_the_first_message_where_a_template_knows_no_system_message() {
    let strict =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}";
    let rendered = render(&format!("{strict}{PLAIN}"), &with_calls(), &weather()).unwrap();
    assert!(rendered.starts_with("<user>You can call"), "{rendered}");
    assert!(rendered.contains("</tool_call>\n\nWeather?"), "{rendered}");
}

#[test]
fn ids_are_made_to_fit_where_a_template_wants_them_short() {
    let voice = Voice { format: &crate::tools::MISTRAL, tokens: Vec::new() };
    let messages = with_calls();
    let fitted = |at: usize| with_fitting_ids(&messages[at], &voice);
    let id = fitted(1)["tool_calls"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((id.len(), &fitted(2)["tool_call_id"]), (9, &json!(id)));
}

#[test]
fn a_template_that_writes_without_end_is_stopped() {
    let endless = "{% for a in range(90000) %}{{ 'a' * 9000 }}{% endfor %}";
    let refused = render(endless, &chat(), &Value::Null).unwrap_err();
    assert!(refused.contains("more than 33554432 bytes"), "{refused}");
}

#[test]
fn a_template_made_of_two_says_what_each_of_them_says() {
    // As a worker joins a model's template for tools with its other one, both ending in a line break.
    let both = "{% if tools %}\n\nT {{ tools[0].name }}\n  {%+ else %}\n\nD\n{%+ endif %}";
    let tools = json!([{ "name": "sum" }]);
    assert_eq!(render(both, &chat(), &tools).unwrap(), "\nT sum\n  ");
    assert_eq!(render(both, &chat(), &Value::Null).unwrap(), "\nD\n");
}
