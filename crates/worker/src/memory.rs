//! What models will take of the machine's memory, and what there is of it.
//!
//! Both are said before anything is loaded. What a model takes is its weights, as far as the headers of its files tell, with
//! the copies of them that this processor computes with, and its KV cache. Where nobody can say what there is, nothing is
//! refused.

use std::path::{Path, PathBuf};

use engine::{EngineConfig, Footprint, ModelSource, Sequences};

use crate::cache_size::default_bytes;

/// What a load takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) weights: u64,
    pub(crate) cache: u64,
}

impl Needs {
    /// What a model takes under these settings on a machine that has so much left.
    pub(crate) fn of(source: &ModelSource, config: &EngineConfig, available: Option<u64>) -> Self {
        Self::of_all(&[source], config, available).first().copied().unwrap_or_default()
    }

    /// What models take together: those whose caches nobody sized share what all weights leave.
    pub(crate) fn of_all(
        sources: &[&ModelSource],
        config: &EngineConfig,
        available: Option<u64>,
    ) -> Vec<Self> {
        // What is wrong with a header, loading will say.
        let footprint = |source: &&ModelSource| {
            let by_size = |_| Footprint { weights: of_files(source), sequences: None };
            Footprint::of(source).unwrap_or_else(by_size)
        };
        let footprints: Vec<Footprint> = sources.iter().map(footprint).collect();
        let settled = |of: Sequences| config.settled_kv_bytes(of.bytes_per_token);
        let (mut taken, mut sharers) = (0_u64, 0_u64);
        for Footprint { weights, sequences } in &footprints {
            taken = taken.saturating_add(*weights);
            match sequences.map(settled) {
                Some(Some(bytes)) => taken = taken.saturating_add(bytes),
                Some(None) => sharers += 1,
                None => {}
            }
        }
        let left = available.map(|bytes| bytes.saturating_sub(taken) / sharers.max(1));
        let needs = |Footprint { weights, sequences }| {
            let by_default = |of| default_bytes(of, config.block_tokens, left);
            let cache = sequences.map_or(0, |of| settled(of).unwrap_or_else(|| by_default(of)));
            Self { weights, cache }
        };
        footprints.into_iter().map(needs).collect()
    }

    /// The settings of an engine that takes this.
    pub(crate) fn settle(self, config: &EngineConfig) -> EngineConfig {
        let kv_bytes = config.kv_bytes.or((self.cache > 0).then_some(self.cache));
        EngineConfig { kv_bytes, ..config.clone() }
    }

    /// What an adapter takes: it shares the cache of its model.
    pub(crate) fn of_adapter(folder: &Path) -> Self {
        Self { weights: in_folder(folder), cache: 0 }
    }

    /// All of it, with something for what is not counted.
    pub(crate) const fn total(self) -> u64 {
        let all = self.weights.saturating_add(self.cache);
        all.saturating_add(all / 16)
    }

    /// Says what `name` will take, and what there is.
    pub(crate) fn say(self, name: &str, available: Option<u64>) {
        tracing::info!(
            model = name,
            weights_mib = self.weights >> 20,
            cache_mib = self.cache >> 20,
            available_mib = available.map(|bytes| bytes >> 20),
            "memory of a model"
        );
    }
}

/// Bytes that this process may still take, as far as the system says: of the machine, or of what it is confined to. Less
/// those that are `promised`: the system gives a page only when it is first written to.
pub(crate) fn available(promised: u64) -> Option<u64> {
    let of_machine = read("/proc/meminfo").and_then(|text| of_meminfo(&text));
    let number = |path| read(path)?.trim().parse::<u64>().ok();
    let most = number("/sys/fs/cgroup/memory.max");
    let taken = number("/sys/fs/cgroup/memory.current");
    let cached = read("/sys/fs/cgroup/memory.stat").and_then(|text| field(&text, "inactive_file "));
    // What files are cached for is given up first.
    let of_group = most
        .zip(taken)
        .map(|(most, taken)| most.saturating_sub(taken.saturating_sub(cached.unwrap_or(0))));
    let available = of_machine.into_iter().chain(of_group).min()?;
    Some(available.saturating_sub(promised))
}

fn of_meminfo(text: &str) -> Option<u64> {
    field(text, "MemAvailable:")?.checked_mul(1024)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The size of what is at `source`.
fn of_files(source: &ModelSource) -> u64 {
    match source {
        ModelSource::Folder(folder) | ModelSource::Quantized { folder: Some(folder), .. } => {
            in_folder(folder)
        }
        ModelSource::Gguf { weights, .. } => size(weights),
        ModelSource::Demo | ModelSource::Quantized { folder: None, .. } => 0,
    }
}

/// The weights in a folder; 0 if it cannot be read, which loading it will say.
fn in_folder(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|one| one == "safetensors");
    paths.filter(is_weights).map(|path| size(&path)).sum()
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: ModelSource = ModelSource::Demo;

    fn settings(kv_bytes: Option<u64>) -> EngineConfig {
        EngineConfig { kv_bytes, ..EngineConfig::default() }
    }

    #[test]
    fn what_a_model_takes_is_its_weights_and_the_cache_that_it_was_given() {
        let needs = Needs::of(&DEMO, &settings(Some(5)), Some(1 << 30));
        assert_eq!(needs.cache, 5);
        assert!(needs.weights > 10 << 20 && needs.total() > needs.weights + needs.cache);
        assert_eq!(needs.settle(&settings(None)).kv_bytes, Some(5));
        let blocks = EngineConfig { kv_blocks: Some(3), ..settings(Some(5)) };
        assert_eq!(Needs::of(&DEMO, &blocks, None).cache, 3 * 32 * 4096);
    }

    #[test]
    fn models_without_a_size_share_what_all_weights_leave() {
        let available = Some(400 << 20);
        let alone = Needs::of(&DEMO, &settings(None), available);
        let both = Needs::of_all(&[&DEMO, &DEMO], &settings(None), available);
        assert_eq!(alone.cache, 256 << 20);
        assert!(both.iter().all(|needs| *needs == both[0]), "{both:?}");
        let sum: u64 = both.iter().map(|needs| needs.weights + needs.cache).sum();
        assert!(both[0].cache < alone.cache && sum < 400 << 20, "{both:?}");
    }

    #[test]
    fn what_has_no_header_takes_what_its_files_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
        file.set_len(16 << 20).unwrap();
        let source = ModelSource::Folder(folder.path().to_owned());
        let needs = Needs::of(&source, &settings(None), None);
        assert_eq!(needs, Needs { weights: 16 << 20, cache: 0 });
    }

    #[test]
    fn what_the_machine_has_is_read_in_bytes() {
        let text = "MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:    50 kB\n";
        assert_eq!(of_meminfo(text), Some(51_200));
        assert_eq!(of_meminfo("MemTotal: 100 kB\n"), None);
    }
}
