//! Models that are loaded and unloaded while a worker runs.
//!
//! Decides what may be loaded: files below one folder, under a name that nothing else has, where there is memory for them.
//! One model is read at a time, on a thread of its own, so that neither the network nor a step waits for a file; the
//! others wait for it with their names kept.
//!
//! Promises: a load that fails has changed nothing for what is served; one that began ends, whether anybody reads how
//! far it is or not.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::{LoadKind, LoadOrder, ModelInfo, Stage, with_causes};
use engine::{EngineConfig, LoadError, ModelSource, Progress, Quantization};
use futures_util::{StreamExt, stream};
use proto::{LoadStream, Loading, NotLoaded, WorkerError};
use tokio::sync::{oneshot, watch};

use crate::config::source;
use crate::drain::Drain;
use crate::local::StartError;
use crate::memory::{Needs, available};
use crate::served::Weights;
use crate::stock::{Reserved, Stock};

/// From where, and with which bounds, models are loaded while a worker runs.
pub(crate) struct Loads {
    /// The only folder below which files are read; absent means that nothing is loaded.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) config: EngineConfig,
    /// One at a time.
    reading: Mutex<()>,
}

/// A load, on its thread.
struct Load {
    loads: Arc<Loads>,
    stock: Arc<Stock>,
    drain: Arc<Drain>,
    root: PathBuf,
    order: LoadOrder,
    _name: Reserved,
}

impl Loads {
    pub(crate) const fn new(folder: Option<PathBuf>, config: EngineConfig) -> Self {
        Self { folder, config, reading: Mutex::new(()) }
    }

    /// Begins a load, or says why not.
    pub(crate) fn begin(
        self: &Arc<Self>,
        stock: &Arc<Stock>,
        drain: &Arc<Drain>,
        order: LoadOrder,
    ) -> Result<LoadStream, WorkerError> {
        check_stays(drain)?;
        let Some(root) = self.folder.clone() else {
            let message = "this worker loads nothing while it runs; set `loading.folder` in its configuration";
            return Err(NotLoaded::Outside.because(message));
        };
        let name = stock.reserve(&order.name)?;
        let (told, progress) = watch::channel(None);
        let (done, conclusion) = oneshot::channel();
        let (loads, stock, drain) = (Arc::clone(self), Arc::clone(stock), Arc::clone(drain));
        let model = order.name.clone();
        let load = Load { loads, stock, drain, root, order, _name: name };
        let thread = std::thread::Builder::new().name("model-load".to_owned()).spawn(move || {
            let ended = load.run(&mut |progress| {
                told.send_replace(Some(progress));
            });
            // Its name is another's before anybody hears that this failed.
            drop(load);
            match &ended {
                Ok(info) => {
                    tracing::info!(model = %info.name, digest = %info.digest, "model loaded");
                }
                Err(error) => tracing::warn!(model = %model, error = %error, "model not loaded"),
            }
            // Whoever ordered it may have left.
            let _ = done.send(ended);
        });
        thread.map_err(|error| WorkerError::Failed(format!("start a thread: {error}")))?;
        Ok(told_of(progress, conclusion))
    }
}

/// How far a load is, and then what came of it.
fn told_of(
    progress: watch::Receiver<Option<Progress>>,
    conclusion: oneshot::Receiver<Result<ModelInfo, WorkerError>>,
) -> LoadStream {
    let state = Some((progress, conclusion));
    let told = stream::unfold(state, |state| async move {
        let (mut progress, mut conclusion) = state?;
        loop {
            tokio::select! {
                biased;
                Ok(()) = progress.changed() => {
                    let Some(Progress { loaded, total }) = *progress.borrow_and_update() else { continue };
                    let told = Loading::Progress { loaded, total };
                    return Some((Ok(told), Some((progress, conclusion))));
                }
                ended = &mut conclusion => {
                    let broken = |_| Err(WorkerError::Failed("loading it panicked".to_owned()));
                    return Some((ended.unwrap_or_else(broken).map(Loading::Done), None));
                }
            }
        }
    });
    told.boxed()
}

impl Load {
    fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<ModelInfo, WorkerError> {
        let _one_at_a_time = self.loads.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let path = below(&self.root, &self.order.path)?;
        match &self.order.kind {
            LoadKind::Model { quantize, tokenizer } => {
                let tokenizer =
                    tokenizer.as_ref().map(|path| below(&self.root, path)).transpose()?;
                let source = self.source(path, quantize.as_deref(), tokenizer)?;
                self.model(&source, progress)
            }
            LoadKind::Adapter { of } => {
                let Some((served, base)) = self.stock.called(of) else {
                    let message = format!("no model is called `{of}`; load it first");
                    return Err(NotLoaded::NoSuchModel.because(message));
                };
                let engine = served.engine().filter(|_| served.info().digest == base.digest);
                let Some(engine) = engine else {
                    let message = format!("`{of}` takes no adapters; name a model that makes text");
                    return Err(NotLoaded::Unreadable.because(message));
                };
                self.fits(Needs::of_adapter(&path))?;
                let info = engine.load_adapter(self.order.name.clone(), &path);
                let info = info.map_err(|error| unreadable(&error))?;
                if let Err(error) = self.stock.check_new(&info) {
                    engine.unload_adapter(&self.order.name);
                    return Err(error);
                }
                if self.stock.called(&self.order.name).is_none() {
                    let message = format!("`{of}` was unloaded meanwhile; load it again first");
                    return Err(NotLoaded::NoSuchModel.because(message));
                }
                Ok(info)
            }
        }
    }

    fn model(
        &self,
        source: &ModelSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelInfo, WorkerError> {
        let needs = Needs::of(source, &self.loads.config, available(self.stock.promised()));
        self.fits(needs)?;
        let weights = Weights::load(&self.order.name, source, progress);
        let weights = weights.map_err(|error| unreadable(&error))?;
        self.stock.check_new(weights.info())?;
        check_stays(&self.drain)?;
        let served = weights.start(needs.settle(&self.loads.config), &self.stock.shifts);
        let served = served.map_err(|error| match error {
            StartError::Load(error) | StartError::Adapter { source: error, .. } => {
                unreadable(&error)
            }
            StartError::Engine(error) => {
                let message = format!("{}; unload a model first", with_causes(&error));
                NotLoaded::NoMemory.because(message)
            }
        })?;
        let info = served.info().clone();
        self.stock.offer(served);
        if check_stays(&self.drain).is_err() {
            // It was told to leave meanwhile, and knows only of what it had then.
            self.stock.drain();
        }
        Ok(info)
    }

    fn source(
        &self,
        path: PathBuf,
        quantize: Option<&str>,
        tokenizer: Option<PathBuf>,
    ) -> Result<ModelSource, WorkerError> {
        let quantization = quantize.map(str::parse::<Quantization>).transpose();
        let quantization = quantization
            .map_err(|error| NotLoaded::Unreadable.because(format!("`quantize`: {error}")))?;
        let has_tokenizer = tokenizer.is_some();
        let source = source(Some(path), quantization, tokenizer);
        let problem = match &source {
            ModelSource::Gguf { .. } if quantization.is_some() => {
                "a GGUF file is quantized as it is; leave `quantize` out, or name a folder"
            }
            ModelSource::Gguf { tokenizer, .. } => {
                // Its own folder, or one that was looked at before.
                check_links(&self.real_root()?, tokenizer)?;
                return Ok(source);
            }
            _ if has_tokenizer => "`tokenizer` is for a GGUF file; leave it out, or name one",
            _ => return Ok(source),
        };
        Err(NotLoaded::Unreadable.because(problem))
    }

    fn real_root(&self) -> Result<PathBuf, WorkerError> {
        real(&self.root, "`loading.folder` of the worker's configuration")
    }

    fn fits(&self, needs: Needs) -> Result<(), WorkerError> {
        let available = available(self.stock.promised());
        needs.say(self.order.name.as_str(), available);
        let Some(available) = available.filter(|available| needs.total() > *available) else {
            return Ok(());
        };
        let (needs, has) = (needs.total() >> 20, available >> 20);
        let message = format!(
            "`{}` needs {needs} MiB with its KV cache, and there are {has} MiB; unload a model first, quantize it, or set a smaller `engine.kv_bytes`",
            self.order.name
        );
        Err(NotLoaded::NoMemory.because(message))
    }
}

/// Refuses a worker that leaves.
fn check_stays(drain: &Drain) -> Result<(), WorkerError> {
    if drain.watch().borrow().stage == Stage::Serving { Ok(()) } else { Err(WorkerError::Draining) }
}

/// The file or folder that `path` means, if it is below `root`, and everything in it is.
fn below(root: &Path, path: &str) -> Result<PathBuf, WorkerError> {
    let real_root = real(root, "`loading.folder` of the worker's configuration")?;
    let wanted = real_root.join(path);
    let found = real(&wanted, &wanted.display().to_string());
    match found {
        Ok(found) if found.starts_with(&real_root) => {
            check_links(&real_root, &found)?;
            Ok(found)
        }
        // Whether there is anything elsewhere is nobody's business.
        Err(error) if is_plainly_below(&real_root, &wanted) => Err(error),
        Ok(_) | Err(_) => Err(outside(&real_root, path)),
    }
}

/// Whether a path stays below `root` as it is written.
fn is_plainly_below(root: &Path, path: &Path) -> bool {
    let steps_up = |part| matches!(part, std::path::Component::ParentDir);
    path.starts_with(root) && !path.components().any(steps_up)
}

/// Refuses a folder with something in it that is elsewhere.
fn check_links(root: &Path, path: &Path) -> Result<(), WorkerError> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok) {
        let inside = entry.path();
        if inside.canonicalize().is_ok_and(|found| !found.starts_with(root)) {
            return Err(outside(root, &inside.display().to_string()));
        }
    }
    Ok(())
}

fn real(path: &Path, called: &str) -> Result<PathBuf, WorkerError> {
    path.canonicalize().map_err(|error| {
        let message = format!(
            "read {called}: {error}; name a folder or a GGUF file that the worker may read"
        );
        NotLoaded::Unreadable.because(message)
    })
}

fn outside(root: &Path, path: &str) -> WorkerError {
    let root = root.display();
    let message = format!(
        "`{path}` is not below `{root}`, the only folder that this worker loads from (`loading.folder`); put it there"
    );
    NotLoaded::Outside.because(message)
}

fn unreadable(error: &LoadError) -> WorkerError {
    let remedy = match error {
        LoadError::Read { .. } => {
            "; name a folder or a file that has it and that the worker may read"
        }
        LoadError::Malformed { .. } | LoadError::Tensor { .. } => "; get its files again",
        LoadError::Unsupported { .. } => "",
    };
    NotLoaded::Unreadable.because(format!("{}{remedy}", with_causes(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(found: Result<PathBuf, WorkerError>) -> NotLoaded {
        match found {
            Err(WorkerError::NotLoaded { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_below_the_folder_is_found_however_it_is_written() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("models");
        let (inside, elsewhere) = (root.join("llama"), place.path().join("secret"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("key"), "secret").unwrap();

        let found = inside.canonicalize().unwrap();
        assert_eq!(below(&root, "llama"), Ok(found.clone()));
        assert_eq!(below(&root, "llama/../llama"), Ok(found));
        assert_eq!(below(&root, &inside.display().to_string()), Ok(inside.canonicalize().unwrap()));
        for path in
            ["../secret", "../nowhere", "/etc", "/nowhere", &elsewhere.display().to_string()]
        {
            assert_eq!(why(below(&root, path)), NotLoaded::Outside, "{path}");
        }
        assert_eq!(why(below(&root, "nowhere")), NotLoaded::Unreadable);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_out_is_followed_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let (root, secret) = (place.path().join("models"), place.path().join("key"));
        std::fs::create_dir_all(root.join("llama")).unwrap();
        std::fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(place.path(), root.join("out")).unwrap();
        std::os::unix::fs::symlink(&secret, root.join("llama/tokenizer.json")).unwrap();

        for path in ["out", "out/key", "llama"] {
            assert_eq!(why(below(&root, path)), NotLoaded::Outside, "{path}");
        }
    }
}
