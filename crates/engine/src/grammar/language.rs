//! A format, compiled for one model.

use std::sync::{Arc, Mutex, PoisonError};

use domain::{Format, ModelFiles, ModelInfo};
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};

use super::matching::{Matching, Then};
use super::reader::Reader;
use super::text;
use super::vocabulary::Vocabulary;

/// What compiles formats for one model.
pub(super) struct Compiler {
    factory: ParserFactory,
    stop_tokens: Arc<[u32]>,
}

/// A language that outputs of one model can be kept in.
pub(crate) struct Language {
    /// At the beginning of an output; it stays there.
    start: Mutex<Reader>,
    stop_tokens: Arc<[u32]>,
    /// What a copy takes at the beginning of an output.
    bytes: usize,
}

impl Compiler {
    /// Reads the model's vocabulary, or says why no format can be compiled for it.
    pub(super) fn new(files: &ModelFiles, model: &ModelInfo) -> Result<Self, String> {
        let vocabulary: TokEnv = Arc::new(Vocabulary::read(&files.tokenizer, model)?);
        let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
        let mut factory =
            ParserFactory::new(&vocabulary, capabilities, &SlicedBiasComputer::general_slices())
                .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, stop_tokens: model.stop_tokens.clone().into() })
    }

    /// Compiles a format, or says what is wrong with it.
    pub(super) fn compile(&self, format: &Format) -> Result<Arc<Language>, String> {
        let grammar = text::grammar(format)?.ok_or("text has no grammar")?;
        let parser =
            self.factory.create_parser(grammar).map_err(|error| told(&error.to_string()))?;
        let reader = Reader::new(parser);
        if let Some(error) = reader.broken() {
            return Err(told(error));
        }
        let bytes = reader.bytes();
        if bytes > MAX_LANGUAGE_BYTES {
            return Err(too_large(bytes, MAX_LANGUAGE_BYTES));
        }
        let stop_tokens = Arc::clone(&self.stop_tokens);
        let language = Arc::new(Language { start: Mutex::new(reader), stop_tokens, bytes });
        // A language without a sentence is better refused than begun.
        match Matching::begin(&language).replay(&[]).then {
            Then::Nothing(reason) => Err(reason),
            Then::Choice(_) | Then::Complete | Then::Elsewhere => Ok(language),
        }
    }
}

impl Language {
    /// A reader at the beginning of an output.
    pub(super) fn start(&self) -> Reader {
        self.start.lock().unwrap_or_else(PoisonError::into_inner).copy()
    }

    pub(super) fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// What a copy takes at the beginning of an output.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What the library may spend on one format. The states are those of one copy, which is made smaller long before it
/// has so many; a grammar has one for every symbol that is written, and some hundred thousand take some hundred
/// megabytes.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 25_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// What a client is told whose format takes too much memory, and what to do.
pub(super) fn too_large(bytes: usize, max: usize) -> String {
    let kibibytes = |bytes: usize| bytes.div_ceil(1 << 10);
    format!(
        "following it takes {} KiB of memory, and at most {} KiB are given: use fewer alternatives, and smaller \
         bounds of lengths and counts",
        kibibytes(bytes),
        kibibytes(max)
    )
}

/// What the library says, at a length that a client can read.
///
/// Where the library panics it catches that itself; its words are of no use to a client then.
pub(super) fn told(error: &str) -> String {
    if let Some(problem) = error.strip_prefix("panic: ") {
        tracing::warn!(problem = problem.lines().next(), "a format made its library panic");
        return "it cannot be compiled".to_owned();
    }
    let lines = error.lines().map(str::trim).filter(|line| !line.is_empty() && *line != NO_DETAILS);
    let lines: Vec<&str> = lines.collect();
    lines.join(" ").chars().take(MAX_REASON).collect()
}

/// How the library says that it leaves details out.
const NO_DETAILS: &str = "<non-verbose/>";
const MAX_REASON: usize = 300;
/// What a copy of a language may take at the beginning of an output.
const MAX_LANGUAGE_BYTES: usize = 8 << 20;
