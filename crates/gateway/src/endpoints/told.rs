//! What an answer consists of, before a protocol puts it into its words.

use domain::{FinishReason, RequestId};
use serde_json::{Value, json};

/// One whole choice.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What the model thought before it answered, if that is told apart.
    pub(crate) reasoning: String,
    /// Tokens it thought with.
    pub(crate) reasoning_tokens: u32,
    pub(crate) content: String,
    pub(crate) calls: Vec<Call>,
    /// What is told of each token, if that was asked for.
    pub(crate) tokens: Vec<TokenTold>,
    /// That was asked for, also where there are none.
    pub(crate) tells_tokens: bool,
    pub(crate) finish: FinishReason,
    /// A stop string ended it within its last call.
    pub(crate) call_is_cut: bool,
}

/// A function that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// As the model wrote them.
    pub(crate) arguments: String,
}

/// More of a choice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    pub(crate) calls: Vec<CallPiece>,
    pub(crate) tokens: Vec<TokenTold>,
}

/// More of a call; the first piece of each has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallPiece {
    pub(crate) index: usize,
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

/// What is told of one token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenTold {
    pub(crate) bytes: Vec<u8>,
    /// `None` if the worker did not say.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<(Vec<u8>, f32)>,
    /// Characters of the choice's text before it.
    pub(crate) offset: usize,
}

impl Default for Told {
    fn default() -> Self {
        let (reasoning, reasoning_tokens, content, calls, tokens) = Default::default();
        Self {
            reasoning,
            reasoning_tokens,
            content,
            calls,
            tokens,
            tells_tokens: false,
            finish: FinishReason::Stop,
            call_is_cut: false,
        }
    }
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { reasoning, content, calls, tokens } = self;
        reasoning.is_empty() && content.is_empty() && calls.is_empty() && tokens.is_empty()
    }

    pub(crate) fn extend(&mut self, more: Self) {
        self.reasoning.push_str(&more.reasoning);
        self.content.push_str(&more.content);
        for piece in more.calls {
            self.add_call(piece);
        }
        self.tokens.extend(more.tokens);
    }
}

impl Delta {
    /// Adds to a call. One chunk has one piece of each call: some clients take two for two calls.
    pub(crate) fn add_call(&mut self, piece: CallPiece) {
        match self.calls.iter_mut().find(|known| known.index == piece.index) {
            Some(known) => known.arguments.push_str(&piece.arguments),
            None => self.calls.push(piece),
        }
    }
}

/// The id of a call: the same whenever and wherever the request's answer is made.
pub(super) fn call_id(request: RequestId, choice: usize, index: usize) -> String {
    format!("call_{}_{choice}_{index}", request.to_string().trim_start_matches("req_"))
}

/// What a chat tells of tokens; `null` if there are none, unless their absence is to be told.
pub(super) fn chat_logprobs(tokens: &[TokenTold], even_none: bool) -> Value {
    if tokens.is_empty() && !even_none {
        return Value::Null;
    }
    let entry = |bytes: &[u8], logprob: Option<f32>| {
        json!({
            "token": String::from_utf8_lossy(bytes),
            "logprob": finite(logprob),
            "bytes": bytes,
        })
    };
    let content = tokens.iter().map(|token| {
        let mut told = entry(&token.bytes, token.logprob);
        let top = token.top.iter().map(|(bytes, logprob)| entry(bytes, Some(*logprob)));
        told["top_logprobs"] = top.collect();
        told
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// The same in the words of text completions.
pub(super) fn text_logprobs(tokens: &[TokenTold], even_none: bool) -> Value {
    if tokens.is_empty() && !even_none {
        return Value::Null;
    }
    let top = tokens.iter().map(|token| {
        let named =
            token.top.iter().map(|(bytes, logprob)| (spelled(bytes), finite(Some(*logprob))));
        Value::Object(named.collect())
    });
    let list = |value: fn(&TokenTold) -> Value| tokens.iter().map(value).collect::<Vec<_>>();
    json!({
        "tokens": list(|token| spelled(&token.bytes).into()),
        "token_logprobs": list(|token| finite(token.logprob)),
        "top_logprobs": top.collect::<Vec<_>>(),
        "text_offset": list(|token| token.offset.into()),
    })
}

/// JSON has no infinity; clients take so little for an impossible token.
fn finite(logprob: Option<f32>) -> Value {
    logprob.map_or(Value::Null, |logprob| json!(logprob.max(LEAST_LOGPROB)))
}

/// A token as text. Parts of characters are spelled, so that no two of them look the same.
fn spelled(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}"))
        }
    }
}

const LEAST_LOGPROB: f32 = -9999.0;
