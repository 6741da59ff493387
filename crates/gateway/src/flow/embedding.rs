//! The life of a request for vectors: that of any other, without a lease to extend or text to tell as it comes.

use std::sync::Arc;

use admission::{Outcome, Permit, Receipt};
use domain::{ErrorKind, FinishReason};
use routing::Embeddings;
use tokio::time::Instant;

use super::{said, show_rates};
use crate::catalog::EmbeddingJob;
use crate::endpoints::Ending;
use crate::endpoints::embeddings::{self, Encoding};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::reply::Reply;

impl Gateway {
    /// Answers a request for vectors.
    pub(super) async fn embed(
        &self,
        reply: &mut Reply,
        began: Instant,
    ) -> Result<Receipt, Failure> {
        let caller = self.admission().identify(reply.credentials())?; // who; before the body is read
        let _place = self.place()?; // a bound on what runs here at a time
        let call = embeddings::parse(&reply.body(self.settings().max_body_bytes).await?)?;
        let (bound, priority) = said(reply)?;
        let call = call.bounded_by(bound, priority);
        let encoding = call.encoding;
        let resolved = self.catalog().resolve_embedding(&caller, reply.request(), call).await?; // exact tokens
        let EmbeddingJob { model, job, texts } = resolved;
        let job = self.rank(&caller, reply, job);
        let permit = self.admission().reserve(&caller, &job).await?; // limits and budgets, one atomic hold
        show_rates(reply, permit.rates());
        let number = texts.len();
        let mut running = self.router().embed(&job, texts);
        let deadline = began + self.settings().request_timeout;
        let vectors = collect(reply, &mut running, (number, deadline), &permit).await;
        if let Err(failure) = &vectors {
            self.give_up(&mut running, failure).await;
        }
        let used = running.used();
        permit.record(used.usage, used.cost);
        permit.record_work(running.work());
        if vectors.as_ref().is_err_and(|failure| failure.kind() != ErrorKind::ClientGone) {
            permit.waive(); // it got nothing
        }
        let receipt = permit.settle(outcome(&vectors)).await; // one ledger row, whatever happened
        self.metrics().receipt(&receipt);
        conclude(reply, (model.info.name.as_str(), encoding), vectors?, &receipt).await?;
        Ok(receipt)
    }

    async fn give_up(&self, running: &mut Embeddings, failure: &Failure) {
        let known = running.used().usage.gpu.nanos();
        running.give_up().await;
        if failure.kind() == ErrorKind::ClientGone {
            self.metrics().wasted(running.used().usage.gpu.nanos() - known);
        }
    }
}

/// Every vector in the order of its texts, unless the client leaves or the deadline passes first.
async fn collect(
    reply: &mut Reply,
    running: &mut Embeddings,
    (number, deadline): (usize, Instant),
    permit: &Permit,
) -> Result<Vec<Vec<f32>>, Failure> {
    let mut all = vec![Vec::new(); number];
    loop {
        let more = tokio::select! {
            biased;
            more = running.next() => more,
            gone = reply.gone() => return Err(gone),
            () = tokio::time::sleep_until(deadline) => return Err(Failure::too_late()),
        };
        let Some(more) = more else { return Ok(all) };
        let used = running.used();
        permit.record(used.usage, used.cost);
        let routing::Vectors { first, vectors } = more?;
        for (place, vector) in all.iter_mut().skip(first).zip(vectors) {
            *place = vector;
        }
    }
}

fn outcome<T>(vectors: &Result<T, Failure>) -> Outcome {
    match vectors {
        Ok(_) => Outcome::Finished(FinishReason::Stop),
        Err(failure) => Outcome::failed(failure.kind()),
    }
}

/// Tells the vectors and what they cost. The row is written by now, and the hold is free.
async fn conclude(
    reply: &mut Reply,
    (model, encoding): (&str, Encoding),
    vectors: Vec<Vec<f32>>,
    receipt: &Receipt,
) -> Result<(), Failure> {
    let entry = &receipt.entry;
    let end = Ending {
        finish: FinishReason::Stop,
        usage: entry.usage,
        charge: entry.charge,
        reasoning_tokens: 0,
        own_bound: None,
    };
    reply.costs(&end);
    let numbers: usize = vectors.iter().map(Vec::len).sum();
    let answer = if numbers <= FEW_NUMBERS {
        embeddings::answer(model, vectors, encoding, &end)
    } else {
        // Writing many numbers takes a while, which other requests of this thread would wait for.
        let model: Arc<str> = model.into();
        let written = tokio::task::spawn_blocking(move || {
            embeddings::answer(&model, vectors, encoding, &end)
        });
        written.await.map_err(Failure::internal)?
    };
    reply.json(200, &answer.map_err(Failure::internal)?).await
}

/// About a millisecond of writing.
const FEW_NUMBERS: usize = 16_384;
