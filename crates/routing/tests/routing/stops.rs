//! Answers that are complete before their workers have said all they would.

use futures_util::StreamExt as _;

use super::*;

#[tokio::test(start_paused = true)]
async fn only_what_is_kept_is_used_also_where_another_worker_went_on() {
    let worker = || Arc::new(ScriptedWorker::new(info(), files(), 10).in_lots(4));
    let fleet = Fleet::of(vec![worker(), worker()]).await;
    let other = fleet.router.dispatch(&job(20), 1).await.unwrap();
    let (emptier, fuller) = if other.worker() == "w0" { (1, 0) } else { (0, 1) };
    fleet.workers[emptier].break_next_after(4);

    let mut answer = fleet.dispatch(&job(20)).await.unwrap();
    let mut said = Vec::new();
    for _ in 0..2 {
        let Piece::Tokens { ids, .. } = answer.next().await.unwrap() else { panic!("it goes on") };
        said.extend(ids);
    }
    assert_eq!(said, undisturbed(&fleet, 8));
    answer.stop_after(FinishReason::Stop, 6);
    let (more, reason) = read(&mut answer).await.unwrap();

    assert_eq!((more, reason), (Vec::new(), FinishReason::Stop));
    let millis = |millis: u64| GpuTime::from_nanos(millis * 1_000_000);
    let usage = answer.used().usage;
    assert_eq!((usage.completion_tokens, usage.gpu), (6, millis(6)));
    let work: Vec<GpuTime> = answer.work().iter().map(|work| work.gpu).collect();
    assert_eq!(work, [millis(4), millis(2)]);
    let state = fleet.workers[fuller].watch().await.unwrap().next().await.unwrap();
    assert_eq!((state.accounts.requests, state.accounts.overhead), (millis(2), millis(2)));
}
