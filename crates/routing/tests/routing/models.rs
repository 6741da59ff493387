//! Several models on one worker: each is weighed by its own figures, and listed as long as somebody serves it.

use std::sync::Arc;
use std::time::Duration;

use domain::{IncarnationId, ModelDigest, ModelInfo, ModelName};
use proto::{Event, ModelLoad, Worker, WorkerError};
use routing::{Router, RouterSettings};
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{Actor, then_silence};
use crate::{info, job};

fn other() -> ModelInfo {
    ModelInfo { name: ModelName::new("other"), digest: ModelDigest::new("other"), ..info() }
}

fn listed(router: &Router) -> Vec<String> {
    router.models().iter().map(|served| served.info.name.to_string()).collect()
}

fn silent() -> Arc<Actor> {
    Actor::new(|_| then_silence(Vec::new()))
}

/// Over these workers, which are known when it is returned.
async fn router(workers: &[&Arc<Actor>]) -> (Arc<Router>, Vec<AbortOnDropHandle<()>>) {
    let named = workers.iter().enumerate();
    let named = named.map(|(at, actor)| (format!("w{at}"), Arc::clone(*actor) as Arc<dyn Worker>));
    let router = Router::new(named, RouterSettings::default());
    let following = router.follow();
    tokio::time::sleep(Duration::from_millis(10)).await;
    (router, following)
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_weighed_by_how_it_stands_with_the_model_that_is_asked_for() {
    let (quick, slow) = (silent(), silent());
    let load = |millis| ModelLoad {
        free_blocks: 100,
        total_blocks: 100,
        first_token_in: Duration::from_millis(millis),
        ..ModelLoad::default()
    };
    for (actor, of_model, of_other) in [(&slow, 900, 1), (&quick, 10, 5_000)] {
        actor.state.send_modify(|state| {
            state.models.push(other());
            // Of all of them together both say the same.
            state.first_token_in = Duration::from_secs(9);
            state.loads =
                vec![(vec![info().digest], load(of_model)), (vec![other().digest], load(of_other))];
        });
    }
    let (router, _following) = router(&[&slow, &quick]).await;
    for _ in 0..8 {
        let answer = router.dispatch(&job(1), 1).await.unwrap();
        assert_eq!(answer.worker(), "w1", "as the model asked for stands, not as the other");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_no_room_for_one_model_is_asked_for_another() {
    let actor = Actor::new(|start| {
        if start.model == info().digest {
            return Err(WorkerError::Full { retry_in: Duration::from_secs(5) });
        }
        then_silence(Vec::<Event>::new())
    });
    actor.state.send_modify(|state| state.models.push(other()));
    let (router, _following) = router(&[&actor]).await;
    let full = tokio::time::timeout(Duration::from_millis(100), router.dispatch(&job(1), 1)).await;
    assert!(full.is_err(), "it waits for room");

    let of_other = crate::job_of(&other(), 1);
    let answer =
        tokio::time::timeout(Duration::from_millis(100), router.dispatch(&of_other, 1)).await;

    assert_eq!(answer.expect("it is asked at once").unwrap().worker(), "w0");
}

#[tokio::test(start_paused = true)]
async fn a_model_is_listed_until_the_last_worker_has_given_it_up() {
    let (one, two) = (silent(), silent());
    for (number, actor) in [(1, &one), (2, &two)] {
        actor.state.send_modify(|state| {
            state.incarnation = IncarnationId::from_u128(number);
            state.models.push(other());
        });
    }
    let (router, _following) = router(&[&one, &two]).await;
    assert_eq!(listed(&router), ["other", "scripted"]);
    let give_up = async |actor: &Actor| {
        actor.state.send_modify(|state| state.models.retain(|model| *model != other()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };

    give_up(&one).await;
    assert_eq!(listed(&router), ["other", "scripted"], "another one serves it");
    give_up(&two).await;
    assert_eq!(listed(&router), ["scripted"]);

    one.state.send_modify(|state| state.models.push(other()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(listed(&router), ["other", "scripted"], "it came back");
    one.state.send_modify(|state| {
        state.incarnation = IncarnationId::from_u128(3);
        state.models.retain(|model| *model != other());
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(listed(&router), ["other", "scripted"], "who starts anew has given nothing up");
}
