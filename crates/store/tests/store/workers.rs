//! The directory of workers in Redis.

use std::time::Duration;

use domain::RequestId;
use routing::{Announce, Directory};
use store::RedisDirectory;

use crate::bank::redis;

fn fresh() -> RedisDirectory {
    let key = format!("tollgate:test-workers:{}", RequestId::generate());
    RedisDirectory::named(&redis(), &key).unwrap()
}

#[tokio::test]
async fn workers_are_listed_while_they_say_that_they_are_there() {
    let directory = fresh();

    directory.announce("http://a:1", Duration::from_mins(1)).await.unwrap();
    directory.announce("http://b:1", Duration::from_mins(1)).await.unwrap();
    directory.announce("http://a:1", Duration::from_mins(1)).await.unwrap();
    let mut members = directory.members().await.unwrap();
    // They are listed by when they fall silent.
    members.sort_unstable();
    assert_eq!(members, ["http://a:1", "http://b:1"]);

    directory.withdraw("http://a:1").await.unwrap();
    assert_eq!(directory.members().await.unwrap(), ["http://b:1"]);
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_forgotten() {
    let directory = fresh();

    directory.announce("http://a:1", Duration::from_millis(1)).await.unwrap();

    while !directory.members().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}
