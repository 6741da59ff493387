//! Finds a model's chat template, wherever its files have it, and makes one of several.
//!
//! In a folder `chat_template.jinja` goes before `chat_template.json`, and that before `tokenizer_config.json`, as in
//! `transformers`. A model may have a template of its own for conversations with tools: it becomes a branch of the one
//! that is handed on.

use std::path::Path;

use serde::Deserialize;

use super::files::{json, read_if_there, text};
use super::gguf_metadata::Metadata;
use crate::LoadError;

/// The templates that a conversation may choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Templates {
    default: Option<String>,
    /// For conversations with tools.
    tool_use: Option<String>,
}

/// What we read of `tokenizer_config.json` and of `chat_template.json`.
#[derive(Default, Deserialize)]
struct Config {
    chat_template: Option<Written>,
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Named(Vec<Named>),
    ByName(std::collections::BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl Templates {
    /// Those in a GGUF file.
    pub(super) fn in_gguf(metadata: &Metadata) -> Result<Self, LoadError> {
        let owned = |text: &str| text.to_owned();
        let named = metadata.text("tokenizer.chat_template.default")?;
        Ok(Self {
            default: metadata.text("tokenizer.chat_template")?.or(named).map(owned),
            tool_use: metadata.text("tokenizer.chat_template.tool_use")?.map(owned),
        })
    }

    /// One template that chooses by itself.
    pub(super) fn into_one(self) -> Option<String> {
        match self {
            Self { default: Some(default), tool_use: Some(tool_use) } if default != tool_use => {
                let [tool_use, default] = [branch(&tool_use), branch(&default)];
                Some(format!("{{% if tools %}}{tool_use}{{%+ else %}}{default}{{%+ endif %}}"))
            }
            Self { default, .. } => default,
        }
    }

    fn add(&mut self, name: &str, template: String) {
        match name {
            "default" => self.default = Some(template),
            "tool_use" => self.tool_use = Some(template),
            // Others are for whoever asks for them by name.
            _ => {}
        }
    }
}

impl From<Written> for Templates {
    fn from(written: Written) -> Self {
        let mut templates = Self::default();
        match written {
            Written::One(template) => templates.add("default", template),
            Written::Named(named) => {
                for Named { name, template } in named {
                    templates.add(&name, template);
                }
            }
            Written::ByName(named) => {
                for (name, template) in named {
                    templates.add(&name, template);
                }
            }
        }
        templates
    }
}

/// The chat template of a folder.
pub(super) fn chat_template(folder: &Path) -> Result<Option<String>, LoadError> {
    let mut templates = Templates::default();
    for (name, file) in [("default", TEMPLATE), ("tool_use", TOOL_TEMPLATE)] {
        if let Some(template) = read_if_there(&folder.join(file))? {
            templates.add(name, text(file, template)?);
        }
    }
    if templates.default.is_some() {
        return Ok(templates.into_one());
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let config = read_if_there(&folder.join(file))?;
        let found = config.map_or(Ok(None), |config| written(file, &config))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The chat template in a `tokenizer_config.json`, or in a file like it.
pub(super) fn written(file: &str, config: &[u8]) -> Result<Option<String>, LoadError> {
    let config: Config = json(file, config)?;
    Ok(config.chat_template.and_then(|written| Templates::from(written).into_one()))
}

/// A template as it reads inside a branch: the end of its text and the line break behind a tag are no longer where
/// Jinja drops one.
fn branch(template: &str) -> String {
    let ended = template.strip_suffix('\n').unwrap_or(template);
    let begun = if ended.starts_with('\n') { "\n" } else { "" };
    format!("{begun}{ended}")
}

const TEMPLATE: &str = "chat_template.jinja";
const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

#[cfg(test)]
mod tests {
    use super::*;

    fn in_folder(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        chat_template(folder.path()).unwrap()
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_transformers() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
        let json = ("chat_template.json", r#"{"chat_template": "json"}"#);
        let jinja = ("chat_template.jinja", "jinja");
        assert_eq!(in_folder(&[]), None);
        assert_eq!(in_folder(&[("tokenizer_config.json", "{}")]), None);
        assert_eq!(in_folder(&[config]).unwrap(), "config");
        assert_eq!(in_folder(&[config, json]).unwrap(), "json");
        assert_eq!(in_folder(&[config, json, jinja]).unwrap(), "jinja");
        let tools = ("additional_chat_templates/tool_use.jinja", "tools");
        assert!(in_folder(&[jinja, tools]).unwrap().contains("tools"));
    }

    #[test]
    fn a_template_for_tools_is_a_branch_of_the_one_for_all() {
        let named = r#"{"chat_template": [{"name": "default", "template": "a\n"},
            {"name": "tool_use", "template": "\nb"}, {"name": "rag", "template": "c"}]}"#;
        let one = written("tokenizer_config.json", named.as_bytes()).unwrap();
        assert_eq!(one.unwrap(), "{% if tools %}\n\nb{%+ else %}a{%+ endif %}");
    }
}
