//! A format, compiled for one model.

use std::sync::{Arc, Mutex, PoisonError};

use domain::{Format, ModelFiles, ModelInfo};
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};

use super::matching::{Matching, Then};
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
    start: Mutex<Matcher>,
    stop_tokens: Arc<[u32]>,
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
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Self { factory, stop_tokens: model.stop_tokens.clone().into() })
    }

    /// Compiles a format, or says what is wrong with it.
    pub(super) fn compile(&self, format: &Format) -> Result<Language, String> {
        let grammar = text::grammar(format)?.ok_or("text has no grammar")?;
        let parser =
            self.factory.create_parser(grammar).map_err(|error| told(&error.to_string()))?;
        let matcher = Matcher::new(Ok(parser));
        if let Some(error) = matcher.get_error() {
            return Err(told(&error));
        }
        let language =
            Language { start: Mutex::new(matcher), stop_tokens: Arc::clone(&self.stop_tokens) };
        // A language without a sentence is better refused than begun.
        match language.begin().replay(&[]).then {
            Then::Nothing(reason) => Err(reason),
            Then::Choice(_) | Then::Complete | Then::Elsewhere => Ok(language),
        }
    }
}

impl Language {
    /// Stands at the beginning of an output.
    pub(super) fn begin(&self) -> Matching {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        Matching::new(start.deep_clone(), Arc::clone(&self.stop_tokens))
    }
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
