//! What a model is said to take of memory, against what it takes: a program of its own, for it counts what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::{CacheSalt, ModelName, OutputRules, ProjectId, Sampling, Share};
use engine::{
    Engine, EngineConfig, Event, Footprint, Model, ModelSource, Quantization, Request, write_gguf,
};

/// The system's allocator, which counts the bytes that are held.
struct Counting;

static HELD: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that an engine holds for the model at `source` when it has read a prompt and said something, its cache left out.
async fn held_by(source: &ModelSource) -> u64 {
    let before = HELD.load(Ordering::Relaxed);
    let model = Model::load(ModelName::new("m"), source, &mut |_| {}).unwrap();
    let config =
        EngineConfig { kv_blocks: Some(BLOCKS), compute_threads: 1, ..EngineConfig::default() };
    let engine = Engine::start(model, config).unwrap();
    let request = Request {
        prompt: vec![5; 100].into(),
        generated: Vec::new(),
        max_output: 4,
        allowance: 4,
        sampling: Sampling::greedy(),
        output: OutputRules { ignore_eos: true, ..OutputRules::default() },
        share: Share::of(ProjectId::generate()),
        salt: CacheSalt::of(ProjectId::generate()),
        adapter: None,
    };
    let mut sequence = engine.submit(request).unwrap();
    while let Some(event) = sequence.next().await {
        assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
    }
    let state = engine.state();
    let cache = u64::from(state.total_blocks) * state.block_bytes;
    HELD.load(Ordering::Relaxed) - before - cache
}

/// How far what is said is from what is held beside everything that is no weight, in percent of that.
fn error_percent(said: u64, held: u64, beside: u64) -> u64 {
    let weights = held.saturating_sub(beside).max(1);
    said.abs_diff(weights) * 100 / weights
}

#[tokio::test]
async fn what_a_model_is_said_to_take_is_about_what_it_takes() {
    let said = |source: &ModelSource| Footprint::of(source).unwrap().weights;
    let dense = held_by(&ModelSource::Demo).await;
    // Tokenizer, grammars, buffers: the same whatever the weights are.
    let beside = dense - said(&ModelSource::Demo).min(dense);
    assert!(beside < dense / 10, "{beside} of {dense} bytes are not counted");
    let folder = tempfile::tempdir().unwrap();
    for quantization in Quantization::ALL {
        let source = ModelSource::Quantized { folder: None, quantization };
        let (said, held) = (said(&source), held_by(&source).await);
        let error = error_percent(said, held, beside);
        assert!(error <= 15, "{quantization}: {said} said, {held} held, {beside} beside");
    }
    for quantization in [Quantization::Q4KM, Quantization::Q8] {
        let source = gguf(folder.path(), quantization);
        let (said, held) = (said(&source), held_by(&source).await);
        let error = error_percent(said, held, beside);
        assert!(error <= 15, "a file of {quantization}: {said} said, {held} held");
    }
}

/// The demo model in one file.
fn gguf(folder: &Path, quantization: Quantization) -> ModelSource {
    let weights = folder.join(format!("{quantization}.gguf"));
    write_gguf(&ModelSource::Demo, quantization, &weights, &mut |_| {}).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model");
    ModelSource::Gguf { weights, tokenizer: demo }
}

const BLOCKS: u32 = 16;
