//! The ways models write calls.

use tokenizers::Tokenizer;

/// One way of writing calls.
#[derive(Debug)]
pub(crate) struct ToolFormat {
    /// For logs.
    pub(crate) name: &'static str,
    /// Texts of which a chat template that speaks it has one.
    marks: &'static [&'static str],
    /// Comes before a call, or before the list of them.
    pub(crate) opener: &'static str,
    /// Comes after a call; empty if nothing does.
    pub(crate) closer: &'static str,
    /// Between `opener` and `closer` and what they enclose.
    pub(crate) padding: &'static str,
    /// Calls are a JSON array.
    pub(crate) listed: bool,
    /// A call may begin the answer without an opener.
    pub(crate) bare: bool,
    /// Between calls.
    pub(crate) separator: &'static str,
    /// What it names a call's arguments.
    pub(crate) arguments: &'static str,
    /// Its templates accept ids of nine letters and digits only.
    pub(crate) short_ids: bool,
}

/// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`: Hermes, Qwen, and the built-in model.
pub(crate) static HERMES: ToolFormat = ToolFormat {
    name: "hermes",
    marks: &["<tool_call>"],
    opener: "<tool_call>",
    closer: "</tool_call>",
    padding: "\n",
    listed: false,
    bare: false,
    separator: "\n",
    arguments: "arguments",
    short_ids: false,
};

/// `{"name": ..., "parameters": ...}`, sometimes after `<|python_tag|>`: Llama 3.1 and later.
pub(crate) static LLAMA3: ToolFormat = ToolFormat {
    name: "llama3",
    marks: &["<|python_tag|>", "\"parameters\": dictionary of argument name"],
    opener: "<|python_tag|>",
    closer: "",
    padding: "",
    listed: false,
    bare: true,
    separator: "; ",
    arguments: "parameters",
    short_ids: false,
};

/// `[TOOL_CALLS] [{"name": ..., "arguments": ...}]`: Mistral.
pub(crate) static MISTRAL: ToolFormat = ToolFormat {
    name: "mistral",
    marks: &["[TOOL_CALLS]"],
    opener: "[TOOL_CALLS]",
    closer: "",
    padding: "",
    listed: true,
    bare: false,
    separator: ", ",
    arguments: "arguments",
    short_ids: true,
};

/// Every way there is; the first one whose mark a template has is its way.
pub(crate) static FORMATS: [&ToolFormat; 3] = [&HERMES, &LLAMA3, &MISTRAL];

/// How one model writes calls.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    pub(crate) format: &'static ToolFormat,
    /// Special tokens among its opener and closer. Detokenizing hides such tokens, and they are not to
    /// be spelled out.
    pub(crate) tokens: Vec<(u32, &'static str)>,
}

impl Voice {
    /// How a model with this tokenizer and chat template writes calls. A template that knows nothing of tools is
    /// no authority: its model is told of them, and of a format, in words.
    pub(crate) fn of(tokenizer: &Tokenizer, template: Option<&str>) -> Self {
        let by_template = || {
            let template = template?;
            let marked =
                |format: &&&ToolFormat| format.marks.iter().any(|mark| template.contains(mark));
            let by_tokens = |format: &&&ToolFormat| tokenizer.token_to_id(format.opener).is_some();
            FORMATS.iter().find(marked).or_else(|| FORMATS.iter().find(by_tokens))
        };
        let format: &'static ToolFormat = by_template().copied().unwrap_or(&HERMES);
        let added = tokenizer.get_added_tokens_decoder();
        let special = |text: &'static str| {
            let id = tokenizer.token_to_id(text)?;
            added.get(&id).filter(|token| token.special).map(|_| (id, text))
        };
        let tokens = [format.opener, format.closer].into_iter().filter_map(special).collect();
        Self { format, tokens }
    }

    /// The special token that `text` is, if it is one.
    pub(crate) fn token(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|(_, known)| *known == text).map(|(id, _)| *id)
    }
}
