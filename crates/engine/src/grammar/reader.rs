//! The library's parser, as far as it is needed here: it reads one output, and says what may follow.
//!
//! Promise: a parser that failed or panicked is never asked again, and says why it failed.

use std::panic::AssertUnwindSafe;

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::SimpleVob;

/// Reads one output. Its lexer remembers what it explored, so it grows.
pub(super) struct Reader {
    parser: TokenParser,
    /// What it keeps of the text it has read: items of the library's chart, at most.
    items: usize,
    broken: Option<String>,
}

impl Reader {
    /// At the beginning of an output.
    pub(super) fn new(mut parser: TokenParser) -> Self {
        let mut broken = None;
        if parser.is_fresh() {
            let started = AssertUnwindSafe(|| {
                parser.start_without_prompt();
                Ok(())
            });
            broken = catch_unwind(started).err().map(|error| error.to_string());
        }
        Self { parser, items: 0, broken }
    }

    /// Another one at the same place, which explores on its own.
    pub(super) fn copy(&self) -> Self {
        let Self { parser, items, broken } = self;
        Self { parser: parser.deep_clone(), items: *items, broken: broken.clone() }
    }

    /// Goes on with a token; whether that may follow.
    pub(super) fn read(&mut self, token: u32) -> bool {
        self.read_all(|_| Ok(vec![token])).is_some()
    }

    /// Goes on with the tokens that must follow, and says which.
    pub(super) fn read_forced(&mut self) -> Vec<u32> {
        self.read_all(|parser| Ok(parser.compute_ff_tokens())).unwrap_or_default()
    }

    fn read_all(
        &mut self,
        next: impl FnOnce(&mut TokenParser) -> Result<Vec<u32>, String>,
    ) -> Option<Vec<u32>> {
        let before = self.parser.parser_stats().all_items;
        let read = self.attempt(|parser| {
            let tokens = next(parser)?;
            if tokens.is_empty() {
                return Ok(tokens);
            }
            for &token in &tokens {
                if parser.consume_token(token).map_err(|error| error.to_string())? > 0 {
                    return Err("a token was taken back".to_owned());
                }
            }
            parser.check_stop().map_err(|error| error.to_string())?;
            Ok(tokens)
        });
        self.items += self.parser.parser_stats().all_items - before;
        read
    }

    /// The tokens that may follow.
    pub(super) fn allowed(&mut self) -> Option<SimpleVob> {
        self.attempt(|parser| parser.compute_mask().map_err(|error| error.to_string()))
    }

    /// Whether the output may end here.
    pub(super) fn may_end(&mut self) -> Option<bool> {
        self.attempt(|parser| Ok(parser.is_accepting()))
    }

    /// Why it reads no further.
    pub(super) fn stopped(&self) -> Option<StopReason> {
        if self.broken.is_some() {
            return Some(StopReason::InternalError);
        }
        self.parser.stopped().then(|| self.parser.stop_reason())
    }

    /// What went wrong, in the library's words.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The memory it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let lexer = self.parser.parser.lexer_stats();
        let nodes = lexer.num_ast_nodes + lexer.num_derived;
        lexer.num_bytes + nodes * NODE_BYTES + self.items * ITEM_BYTES
    }

    fn attempt<T>(&mut self, act: impl FnOnce(&mut TokenParser) -> Result<T, String>) -> Option<T> {
        if self.broken.is_some() {
            return None;
        }
        let (mut acted, parser) = (None, &mut self.parser);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            acted = Some(act(parser));
            Ok(())
        }));
        let problem = match (caught, acted) {
            (Ok(()), Some(Ok(value))) => return Some(value),
            (_, Some(Err(problem))) => problem,
            (Err(panic), _) => panic.to_string(),
            (Ok(()), None) => return None,
        };
        self.broken = Some(problem);
        None
    }
}

/// What a node of the lexer's expressions takes beside what the library counts.
const NODE_BYTES: usize = 40;
/// What an item of the chart takes, with its argument.
const ITEM_BYTES: usize = 24;
