//! Decides which requests are the same request.
//!
//! Two requests have one key exactly if they come from one project and would give the same text:
//! same model digest (it covers weights, tokenizer and template), prompt tokens, output limit,
//! sampling, rules of the output and stop strings. Which key of the project asks, the request's id, its priority and the
//! name the model goes by do not matter, nor does its price: a hit is metered by whoever asks. Where two values cannot differ in effect (`-0.0` and `0.0`; the
//! seed and the cut-offs of a greedy request) they are one value here.
//!
//! The encoding that is hashed is injective: every field is either of fixed size or preceded by
//! its length, in a fixed order, so no two requests share one by moving a boundary.

use std::fmt;

use domain::{Format, Job, OutputRules, ProjectId, Reasoning, Sampling, Scope, TextRules};

/// Names one reproducible request of one project. Made only by [`CacheKey::of`].
///
/// The project stands beside the hash, not only inside it: keys of two projects differ even if
/// hashes should collide, and a tier can partition its space by project.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    project: ProjectId,
    digest: [u8; 32],
}

impl CacheKey {
    /// The key of `job`, asked in `scope`; `None` if the same job could give another answer, or one that
    /// [`CachedAnswer`](crate::CachedAnswer) cannot hold: several texts, or what is told of each token.
    pub fn of(scope: &Scope, job: &Job) -> Option<Self> {
        if !job.reproducible() || job.choices() > 1 || job.output().logprobs.is_some() {
            return None;
        }
        // The keys of a project share its answers; a new level of the tree must be considered here.
        let Scope { organization, project, user: _, key: _ } = scope;
        let mut encoding = Encoding::default();
        encoding.bytes(organization.as_bytes());
        encoding.bytes(project.as_bytes());
        encoding.bytes(job.digest().as_str().as_bytes());
        encoding.tokens(job.prompt());
        encoding.number(job.max_output());
        encoding.sampling(job.sampling());
        encoding.output(job.output());
        encoding.texts(job.stop());
        Some(Self { project: *project, digest: encoding.digest() })
    }

    /// The project whose answer this names.
    pub const fn project(&self) -> ProjectId {
        self.project
    }

    /// The hash of everything that decides the answer.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Display for CacheKey {
    /// The project in braces, which is a Redis Cluster hash tag, and the hash in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}:{}", self.project, blake3::Hash::from_bytes(self.digest).to_hex())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes that are hashed.
#[derive(Default)]
struct Encoding(Vec<u8>);

impl Encoding {
    fn sampling(&mut self, sampling: &Sampling) {
        // A new field must be considered here: whether it can change the answer, and when.
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        } = sampling;
        self.float(*repetition_penalty);
        self.float(*presence_penalty);
        self.float(*frequency_penalty);
        self.length(logit_bias.len());
        for (token, bias) in logit_bias {
            self.number(*token);
            self.float(*bias);
        }
        self.float(*temperature);
        if *temperature == 0.0 {
            return; // the most probable token survives every cut-off, and nothing is drawn
        }
        self.float(*top_p);
        self.number(*top_k);
        self.float(*min_p);
        self.0.extend(seed.to_le_bytes());
    }

    fn output(&mut self, output: &OutputRules) {
        let OutputRules {
            format,
            logprobs,
            min_tokens,
            ignore_eos,
            stop_token_ids,
            allowed_token_ids,
            bad_words,
            text: TextRules { special_tokens, stop_string, reasoning },
        } = output;
        match format {
            Format::Text => self.number(0),
            Format::JsonObject => self.number(1),
            Format::JsonSchema(schema) => self.named(2, schema),
            Format::Regex(regex) => self.named(3, regex),
            Format::Choice(texts) => {
                self.number(4);
                self.texts(texts);
            }
            Format::Grammar(grammar) => self.named(5, grammar),
        }
        self.number(logprobs.map_or(0, |top| top.saturating_add(1)));
        self.number(*min_tokens);
        self.number(u32::from(*ignore_eos));
        self.tokens(stop_token_ids);
        self.number(u32::from(allowed_token_ids.is_some()));
        self.tokens(allowed_token_ids.as_deref().unwrap_or_default());
        self.length(bad_words.len());
        for word in &**bad_words {
            self.tokens(word);
        }
        self.number(u32::from(*special_tokens));
        self.number(u32::from(*stop_string));
        self.number(match reasoning {
            Reasoning::AsText => 0,
            Reasoning::Apart => 1,
            Reasoning::Begun => 2,
        });
    }

    fn named(&mut self, kind: u32, text: &str) {
        self.number(kind);
        self.bytes(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.length(texts.len());
        for text in texts {
            self.bytes(text.as_bytes());
        }
    }

    fn tokens(&mut self, tokens: &[u32]) {
        self.length(tokens.len());
        self.0.reserve(size_of_val(tokens));
        for token in tokens {
            self.number(*token);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend(bytes);
    }

    fn length(&mut self, length: usize) {
        self.0.extend((length as u64).to_le_bytes());
    }

    fn number(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn float(&mut self, float: f32) {
        let one_zero = if float == 0.0 { 0.0 } else { float };
        self.number(one_zero.to_bits());
    }

    fn digest(self) -> [u8; 32] {
        blake3::derive_key(DOMAIN, &self.0)
    }
}

/// Separates these hashes from every other use of the hash; changes whenever the encoding does.
const DOMAIN: &str = "tollgate 2026 response cache, exact request, encoding 3";

#[cfg(test)]
mod tests {
    use domain::{JobParts, KeyId, ModelDigest, ModelName, OrganizationId, RequestId};
    use proptest::prelude::*;

    use super::*;
    use crate::samples::{any_parts, any_scope, greedy_parts, scope};

    fn key(scope: &Scope, parts: &JobParts) -> CacheKey {
        CacheKey::of(scope, &Job::new(parts.clone()).unwrap()).expect("the job is reproducible")
    }

    /// `parts` with each thing that decides the answer changed alone.
    ///
    /// A new field of [`JobParts`] breaks the pattern: decide whether it belongs in the key.
    fn neighbours(parts: &JobParts) -> Vec<(&'static str, JobParts)> {
        let JobParts {
            request: _,
            model: _,
            digest,
            context_length: _,
            prompt,
            max_output,
            choices: _, // more than one has no key
            sampling: _,
            output,
            stop,
            share: _,
            reproducible: _,
            price: _,
            bound: _,
        } = parts;
        let mut list = sampling_neighbours(parts);
        let mut add = |name, changed| list.push((name, changed));
        let digest = ModelDigest::new(format!("{digest}0"));
        add("digest", JobParts { digest, ..parts.clone() });
        let longer: Vec<u32> = prompt.iter().copied().chain([0]).collect();
        add("prompt, longer", JobParts { prompt: longer.into(), ..parts.clone() });
        let other: Vec<u32> = prompt.iter().map(|token| token ^ 1).collect();
        add("prompt, other", JobParts { prompt: other.into(), ..parts.clone() });
        let max_output = max_output.map(|limit| limit + 1);
        add("max_output", JobParts { max_output, ..parts.clone() });
        let schema = Format::JsonSchema("{}".into());
        for (name, output) in [
            ("format", OutputRules { format: Format::JsonObject, ..output.clone() }),
            ("format, other", OutputRules { format: schema, ..output.clone() }),
            ("min_tokens", OutputRules { min_tokens: 1, ..output.clone() }),
            ("ignore_eos", OutputRules { ignore_eos: true, ..output.clone() }),
        ]
        .into_iter()
        .chain(wording_neighbours(output))
        {
            add(name, JobParts { output, ..parts.clone() });
        }
        let more = stop.iter().cloned().chain([String::new()]).collect();
        add("stop, more", JobParts { stop: more, ..parts.clone() });
        let mut longer = stop.clone();
        longer[0].push('x');
        add("stop, longer", JobParts { stop: longer, ..parts.clone() });
        list
    }

    /// `output` with each rule about its tokens and its text changed alone.
    fn wording_neighbours(output: &OutputRules) -> Vec<(&'static str, OutputRules)> {
        let base = || output.clone();
        let bad = |words: &[Vec<u32>]| OutputRules { bad_words: words.into(), ..base() };
        let text = |text| OutputRules { text, ..base() };
        let apart = |reasoning| text(TextRules { reasoning, ..TextRules::default() });
        vec![
            ("stop_token_ids", OutputRules { stop_token_ids: [1].into(), ..base() }),
            ("stop_token_ids, more", OutputRules { stop_token_ids: [1, 2].into(), ..base() }),
            ("allowed", OutputRules { allowed_token_ids: Some([1].into()), ..base() }),
            ("allowed, more", OutputRules { allowed_token_ids: Some([1, 2].into()), ..base() }),
            ("bad_words", bad(&[vec![1, 2]])),
            ("bad_words, apart", bad(&[vec![1], vec![2]])),
            ("special", text(TextRules { special_tokens: true, ..TextRules::default() })),
            ("stop_string", text(TextRules { stop_string: true, ..TextRules::default() })),
            ("reasoning", apart(Reasoning::Apart)),
            ("reasoning, begun", apart(Reasoning::Begun)),
        ]
    }

    fn sampling_neighbours(parts: &JobParts) -> Vec<(&'static str, JobParts)> {
        type Change = (&'static str, fn(&mut Sampling));
        let always: [Change; 6] = [
            ("temperature", |s| s.temperature += 0.5),
            ("repetition_penalty", |s| s.repetition_penalty += 0.5),
            ("presence_penalty", |s| s.presence_penalty += 0.5),
            ("frequency_penalty", |s| s.frequency_penalty += 0.5),
            ("logit_bias, value", |s| s.logit_bias[0].1 += 0.5),
            ("logit_bias, token", |s| s.logit_bias[0].0 ^= 1),
        ];
        let drawn: [Change; 4] = [
            ("top_p", |s| s.top_p += 0.5),
            ("top_k", |s| s.top_k += 1),
            ("min_p", |s| s.min_p += 0.5),
            ("seed", |s| s.seed ^= 1 << 63),
        ];
        let greedy = parts.sampling.temperature == 0.0;
        let changes = always.into_iter().chain(drawn.into_iter().filter(|_| !greedy));
        changes
            .map(|(name, change)| {
                let mut changed = parts.clone();
                change(&mut changed.sampling);
                (name, changed)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn equal_requests_of_a_project_have_one_key(scope in any_scope(), parts in any_parts()) {
            let by_another_key = Scope { key: KeyId::generate(), ..scope };
            let another_time = JobParts {
                request: RequestId::generate(),
                model: ModelName::new("alias"),
                ..parts.clone()
            };

            prop_assert_eq!(key(&scope, &parts), key(&by_another_key, &another_time));
        }

        #[test]
        fn two_projects_never_share_a_key(
            ours in any_scope(),
            theirs in any_scope(),
            our_parts in any_parts(),
            their_parts in any_parts(),
        ) {
            prop_assume!(ours.project != theirs.project);
            let within_one_company = Scope { project: theirs.project, ..ours };

            for scope in [theirs, within_one_company] {
                for parts in [&our_parts, &their_parts] {
                    let (our_key, their_key) = (key(&ours, &our_parts), key(&scope, parts));
                    prop_assert_ne!(our_key, their_key);
                    prop_assert_ne!(our_key.digest(), their_key.digest());
                    prop_assert_ne!(our_key.to_string(), their_key.to_string());
                }
            }
        }

        #[test]
        fn whatever_can_change_the_answer_changes_the_key(
            scope in any_scope(),
            parts in any_parts(),
        ) {
            let original = key(&scope, &parts);

            for (name, changed) in neighbours(&parts) {
                prop_assert_ne!(original, key(&scope, &changed), "{}", name);
            }
            let elsewhere = Scope { organization: OrganizationId::generate(), ..scope };
            prop_assert_ne!(original, key(&elsewhere, &parts));
        }

        #[test]
        fn greedy_requests_ignore_seed_and_cut_offs(
            parts in any_parts(),
            other in any_parts(),
        ) {
            let mut one = parts;
            one.sampling.temperature = 0.0;
            let mut two = one.clone();
            two.sampling.temperature = -0.0;
            two.sampling.top_p = other.sampling.top_p;
            two.sampling.top_k = other.sampling.top_k;
            two.sampling.min_p = other.sampling.min_p;
            two.sampling.seed = other.sampling.seed;

            prop_assert_eq!(key(&scope(1), &one), key(&scope(1), &two));
        }

        #[test]
        fn the_sign_of_zero_does_not_matter(parts in any_parts()) {
            let with_zero = |zero: f32| {
                let mut parts = parts.clone();
                parts.sampling.top_p = zero;
                parts.sampling.min_p = zero;
                parts.sampling.presence_penalty = zero;
                parts.sampling.frequency_penalty = zero;
                parts.sampling.logit_bias = vec![(7, zero)];
                key(&scope(1), &parts)
            };

            prop_assert_eq!(with_zero(0.0), with_zero(-0.0));
        }
    }

    #[test]
    fn moving_a_boundary_between_stop_strings_changes_the_key() {
        let with_stop = |stop: &[&str]| {
            let stop = stop.iter().map(ToString::to_string).collect();
            key(&scope(1), &JobParts { stop, ..greedy_parts() })
        };

        let keys = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"], &[]]
            .map(with_stop);

        let distinct: std::collections::HashSet<_> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn an_output_limit_left_to_the_context_is_the_same_as_naming_it() {
        let parts = greedy_parts();
        let room = parts.context_length - u32::try_from(parts.prompt.len()).unwrap();

        let left_open = JobParts { max_output: None, ..parts.clone() };
        let named = JobParts { max_output: Some(room), ..parts };

        assert_eq!(key(&scope(1), &left_open), key(&scope(1), &named));
    }

    #[test]
    fn a_request_that_may_answer_differently_has_no_key() {
        let parts = JobParts { reproducible: false, ..greedy_parts() };

        assert_eq!(CacheKey::of(&scope(1), &Job::new(parts).unwrap()), None);
    }

    #[test]
    fn an_answer_that_would_not_be_kept_whole_has_no_key() {
        let several = JobParts { choices: 2, ..greedy_parts() };
        let output = OutputRules { logprobs: Some(0), ..OutputRules::default() };
        let told_more_of = JobParts { output, ..greedy_parts() };

        for parts in [several, told_more_of] {
            assert_eq!(CacheKey::of(&scope(1), &Job::new(parts).unwrap()), None);
        }
    }

    #[test]
    fn a_key_prints_its_project_as_hash_tag() {
        let printed = key(&scope(1), &greedy_parts()).to_string();

        let (tag, digest) = printed.split_once(':').unwrap();
        assert_eq!(tag, "{proj_00000000000000000000000000000001}");
        assert_eq!(digest.len(), 64);
    }
}
