//! Texts to embed: in order however many there are, and elsewhere when a worker fails.

use domain::ModelKind;
use proto::{EmbedOrder, Embedded, Generation, Start, StateStream, WorkerError};
use routing::{Embeddings, Vectors};

use super::*;

/// A fleet whose model makes vectors of three numbers.
async fn fleet(workers: usize) -> Fleet {
    let worker = |_| Arc::new(ScriptedWorker::new(vectors(), files(), 8));
    Fleet::of((0..workers).map(worker).collect()).await
}

fn vectors() -> ModelInfo {
    ModelInfo { kind: ModelKind::Embedding { dimensions: 3 }, ..info() }
}

fn texts(number: u32, tokens: u32) -> Vec<Arc<[u32]>> {
    (0..number).map(|text| (text..text + tokens).collect()).collect()
}

/// A job that embeds them.
fn embedding(texts: &[Arc<[u32]>]) -> Job {
    let prompt: Vec<u32> = texts.iter().flat_map(|text| text.iter().copied()).collect();
    let model = job(1);
    Job::embedding(JobParts {
        request: model.request(),
        model: info().name,
        digest: info().digest,
        context_length: 4096,
        prompt: prompt.into(),
        max_output: None,
        choices: 1,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        stop: Vec::new(),
        share: model.share(),
        reproducible: true,
        price: *model.price(),
        bound: OwnBound::default(),
    })
    .unwrap()
}

/// All vectors in the order of their texts.
async fn collect(embeddings: &mut Embeddings) -> Result<Vec<Vec<f32>>, RouteError> {
    let mut all: Vec<Vectors> = Vec::new();
    while let Some(some) = embeddings.next().await {
        all.push(some?);
    }
    all.sort_by_key(|some| some.first);
    Ok(all.into_iter().flat_map(|some| some.vectors).collect())
}

#[tokio::test(start_paused = true)]
async fn many_texts_come_back_in_order_and_their_usage_adds_up() {
    let fleet = fleet(2).await;
    let texts = texts(300, 40);
    let expected: Vec<_> = texts.iter().map(|text| fleet.workers[0].vector(text)).collect();

    let mut embeddings = fleet.router.embed(&embedding(&texts), texts);
    let vectors = collect(&mut embeddings).await.unwrap();

    assert_eq!(vectors, expected);
    // A scripted token takes a millisecond, whatever the clock says; a second is all that is believed of a lot.
    let (used, work) = (embeddings.used(), embeddings.work());
    assert_eq!((used.usage.prompt_tokens, used.usage.completion_tokens), (12_000, 0));
    assert_eq!(work.iter().map(|work| work.gpu).sum::<GpuTime>(), used.usage.gpu);
    assert!(work.len() == 2 && work.iter().all(|work| work.complete), "both had some: {work:?}");
    let costs = work.iter().map(|work| work.gpu.cost(NanoUsd::from_dollars(1)));
    assert_eq!(costs.sum::<NanoUsd>(), used.cost);
}

#[tokio::test(start_paused = true)]
async fn texts_whose_worker_breaks_are_embedded_elsewhere() {
    let fleet = fleet(2).await;
    for worker in &fleet.workers {
        worker.break_next_after(0);
    }
    let texts = texts(3, 5);

    let mut embeddings = fleet.router.embed(&embedding(&texts), texts.clone());
    let vectors = collect(&mut embeddings).await.unwrap();

    assert_eq!(vectors, texts.iter().map(|text| fleet.workers[0].vector(text)).collect::<Vec<_>>());
    assert_eq!(embeddings.used().usage.gpu, GpuTime::from_nanos(15_000_000), "once, not thrice");
}

#[tokio::test(start_paused = true)]
async fn texts_that_break_everywhere_are_given_up() {
    let fleet = fleet(2).await;
    for worker in &fleet.workers {
        (0..8).for_each(|_| worker.break_next_after(0));
    }
    let texts = texts(1, 5);

    let failed = collect(&mut fleet.router.embed(&embedding(&texts), texts)).await.unwrap_err();

    assert_eq!(failed.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_full_worker_is_waited_for_and_a_draining_one_left_alone() {
    let worker = |pace| {
        let worker = ScriptedWorker::new(vectors(), files(), 1);
        Arc::new(worker.paced(Duration::from_millis(pace)))
    };
    let fleet = Fleet::of(vec![worker(500), worker(500)]).await;
    fleet.workers[1].drain(None).await.unwrap();
    // Four lots at a time, of which the only worker takes one.
    let texts = texts(200, 1);

    let mut embeddings = fleet.router.embed(&embedding(&texts), texts);
    let vectors = collect(&mut embeddings).await.unwrap();

    assert_eq!(vectors.len(), 200);
    assert!(embeddings.work().iter().all(|work| work.worker == "w0"), "{:?}", embeddings.work());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_in_the_books_and_nothing_more_is_sent() {
    let worker = ScriptedWorker::new(vectors(), files(), 8).paced(Duration::from_secs(1));
    let fleet = Fleet::of(vec![Arc::new(worker)]).await;
    // Ten lots, of which four are under way at a time.
    let texts = texts(640, 1);
    let mut embeddings = fleet.router.embed(&embedding(&texts), texts);
    let begun = tokio::time::timeout(Duration::from_millis(500), embeddings.next()).await;
    assert!(begun.is_err(), "it takes a second");

    embeddings.give_up().await;

    assert_eq!(embeddings.used().usage.prompt_tokens, 4 * 64);
    assert_eq!(embeddings.work()[0].gpu, GpuTime::from_nanos(4 * 64 * 1_000_000));
}

/// A worker that tells vectors that cannot be.
struct Liar(ScriptedWorker, Vec<f32>);

#[async_trait::async_trait]
impl Worker for Liar {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        self.0.generate(start).await
    }

    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        let embedded = self.0.embed(order).await?;
        Ok(Embedded { vectors: vec![self.1.clone(); embedded.vectors.len()], ..embedded })
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        self.0.watch().await
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.0.drain(leaves_in).await
    }

    async fn set_price(&self, rent: domain::Rent) -> Result<(), WorkerError> {
        self.0.set_price(rent).await
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        self.0.model_files(model).await
    }
}

#[tokio::test(start_paused = true)]
async fn vectors_that_cannot_be_are_not_passed_on() {
    for lie in [vec![0.5; 2], vec![0.5, f32::NAN, 0.5]] {
        let liar = Liar(ScriptedWorker::new(vectors(), files(), 8), lie);
        let named = [("liar".to_owned(), Arc::new(liar) as Arc<dyn Worker>)];
        let router = Router::new(named, RouterSettings::default());
        let _followers = router.follow();
        while router.workers().iter().any(|(_, state)| state.is_none()) {
            router.changed().await;
        }
        let texts = texts(1, 5);

        let failed = collect(&mut router.embed(&embedding(&texts), texts)).await.unwrap_err();

        assert_eq!(failed.kind(), ErrorKind::Internal, "{failed}");
    }
}
