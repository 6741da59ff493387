//! What a model will take of the machine's memory, and what there is of it.
//!
//! Both are said before anything is loaded. What a model takes is the size of its files, as far as they hold weights, at the
//! bits they will have, and its KV cache. Where nobody can say what there is, nothing is refused.

use std::path::{Path, PathBuf};

use engine::{Encoder, EngineConfig, ModelSource, Quantization};

/// What a load takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) weights: u64,
    pub(crate) cache: u64,
}

impl Needs {
    /// What a model takes under these settings.
    pub(crate) fn of(source: &ModelSource, config: &EngineConfig) -> Self {
        let weights = match source {
            // It is part of the program, and copied.
            ModelSource::Demo | ModelSource::Quantized { folder: None, .. } => DEMO_BYTES,
            ModelSource::Folder(folder) => in_folder(folder),
            ModelSource::Quantized { folder: Some(folder), quantization } => {
                quantized(in_folder(folder), *quantization)
            }
            ModelSource::Gguf { weights, .. } => size(weights),
        };
        // What embeds keeps no blocks.
        let embeds = matches!(source, ModelSource::Folder(folder) if Encoder::is_in(folder));
        Self { weights, cache: if embeds { 0 } else { config.kv_bytes } }
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

/// What weights of 16 bits become.
const fn quantized(bytes: u64, quantization: Quantization) -> u64 {
    let tenths_of_bits = match quantization {
        Quantization::Q8 => 85,
        Quantization::Q6K => 66,
        Quantization::Q5KM | Quantization::Q5K => 60,
        Quantization::Q4KM | Quantization::Q4K | Quantization::Q4 => 50,
    };
    bytes / 160 * tenths_of_bits
}

/// The model that is compiled in.
const DEMO_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_takes_is_the_size_of_its_files_and_its_cache() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
        file.set_len(16 << 20).unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let config = EngineConfig { kv_bytes: 5, ..EngineConfig::default() };
        let path = folder.path().to_owned();

        let plain = Needs::of(&ModelSource::Folder(path.clone()), &config);
        let source = ModelSource::Quantized { folder: Some(path), quantization: Quantization::Q8 };
        let smaller = Needs::of(&source, &config);

        assert_eq!(plain, Needs { weights: 16 << 20, cache: 5 });
        assert!((8 << 20..9 << 20).contains(&smaller.weights), "{smaller:?}");
        assert!(plain.total() > plain.weights + plain.cache);
    }

    #[test]
    fn what_the_machine_has_is_read_in_bytes() {
        let text = "MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:    50 kB\n";
        assert_eq!(of_meminfo(text), Some(51_200));
        assert_eq!(of_meminfo("MemTotal: 100 kB\n"), None);
    }
}
