use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tempfile::TempDir;

use super::*;

fn listeners() -> [Listener; 2] {
    [(); 2].map(|()| Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap())
}

fn place(data: &TempDir, listeners: &[Listener; 2]) -> Place {
    Place::open(data.path(), [&listeners[0], &listeners[1]]).unwrap()
}

fn models() -> Vec<String> {
    vec!["a model".to_owned(), "another".to_owned()]
}

#[tokio::test]
async fn a_successor_is_given_the_listeners_themselves_and_relieves_its_predecessor() {
    let data = TempDir::new().unwrap();
    let bound = listeners();
    let place = place(&data, &bound);
    let addresses = bound.each_ref().map(Listener::address);

    let taken = tokio::spawn(async move { place.taken(models).await });
    let (mut predecessor, inherited) = Predecessor::find(data.path()).await.unwrap();
    assert_eq!(predecessor.models(), models());
    assert_eq!(inherited.each_ref().map(Listener::address), addresses);
    // What was bound first is closed, and the port still accepts.
    drop(bound);
    let mut client = TcpStream::connect(addresses[0]).unwrap();
    let [listener, _] = inherited;
    let (mut accepted, _) = listener.into_tokio().unwrap().accept().await.unwrap();
    accepted.write_all(b"hello").await.unwrap();
    drop(accepted);
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");

    predecessor.relieve().await.unwrap();
    let connection = taken.await.unwrap();
    let gone = tokio::spawn(async move { predecessor.gone().await });
    assert!(!gone.is_finished());
    drop(connection);
    gone.await.unwrap();
}

#[tokio::test]
async fn a_successor_that_goes_away_before_it_serves_changes_nothing() {
    let data = TempDir::new().unwrap();
    let bound = listeners();
    let place = place(&data, &bound);
    let taken = tokio::spawn(async move { place.taken(models).await });

    let (first, _) = Predecessor::find(data.path()).await.unwrap();
    drop(first);
    // Somebody who speaks another protocol.
    let mut stranger = std::os::unix::net::UnixStream::connect(data.path().join(SOCKET)).unwrap();
    stranger.write_all(b"GET").unwrap();
    drop(stranger);
    let (mut second, _) = Predecessor::find(data.path()).await.unwrap();
    assert!(!taken.is_finished());
    second.relieve().await.unwrap();
    taken.await.unwrap();
}

#[tokio::test]
async fn who_takes_over_where_nobody_is_or_elsewhere_is_told_so() {
    let data = TempDir::new().unwrap();
    let error = Predecessor::find(data.path()).await.unwrap_err();
    assert!(error.to_string().contains("without --upgrade"), "{error}");

    let bound = listeners();
    let any = "127.0.0.1:0".parse().unwrap();
    assert!(check_listeners(&bound, any, bound[1].address()).is_ok());
    let error = check_listeners(&bound, any, "127.0.0.1:1".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("`admin_listen` is 127.0.0.1:1"), "{error}");
}
