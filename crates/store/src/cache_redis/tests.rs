use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::ProjectId;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use redis::Client;

use super::*;
use crate::cache_conformance::{self, LARGEST_ANSWER_BYTES, answer, fresh_key};

/// Deadlines that a Redis which answers never meets, however busy the machine is.
fn patient() -> RedisCacheSettings {
    RedisCacheSettings {
        connect_deadline: Duration::from_mins(1),
        response_deadline: Duration::from_mins(1),
        cool_down: Duration::from_hours(1),
        max_answer_bytes: LARGEST_ANSWER_BYTES,
        ..RedisCacheSettings::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "where the tests find Redis is not configuration")]
pub(crate) fn test_redis() -> String {
    std::env::var("TOLLGATE_TEST_REDIS").expect(
        "TOLLGATE_TEST_REDIS must name a Redis to test with; `cargo xtask test` starts one and sets it",
    )
}

fn open() -> RedisCache {
    RedisCache::new(&test_redis(), patient()).unwrap()
}

cache_conformance::instantiate!(open);

async fn raw<T: FromRedisValue>(command: &Cmd) -> T {
    let client = Client::open(test_redis()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    command.query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn an_answer_is_kept_under_its_project_and_expires() {
    let key = fresh_key(ProjectId::generate(), 1);

    open().store(&key, &answer("kept")).await;

    let name = format!("tollgate:cache:1:{{{}}}:", key.project());
    let names: Vec<String> = raw(redis::cmd("KEYS").arg(format!("{name}*"))).await;
    assert_eq!(names, [name_of(&key)]);
    let millis: i64 = raw(redis::cmd("PTTL").arg(name_of(&key))).await;
    let longest = i64::try_from(patient().time_to_live.as_millis()).unwrap();
    assert!((1..=longest).contains(&millis), "{millis}");
}

#[tokio::test]
async fn a_value_of_another_format_or_none_is_a_miss() {
    let (tier, key) = (open(), fresh_key(ProjectId::generate(), 1));
    let mut older = encode(&key, &answer("older"));
    older[0] = FORMAT - 1;
    let mut garbled = encode(&key, &answer("garbled"));
    garbled.pop();

    for value in [older, garbled, vec![FORMAT], Vec::new(), b"{}".to_vec()] {
        let () = raw(redis::cmd("SET").arg(name_of(&key)).arg(&value)).await;
        assert_eq!(tier.find(&key).await, None, "{value:?}");
    }
}

#[tokio::test]
async fn a_value_that_belongs_to_another_key_is_a_miss() {
    let tier = open();
    let (ours, theirs) = (fresh_key(ProjectId::generate(), 1), fresh_key(ProjectId::generate(), 1));

    tier.store(&theirs, &answer("theirs")).await;
    let () = raw(redis::cmd("COPY").arg(name_of(&theirs)).arg(name_of(&ours))).await;

    assert_eq!(tier.find(&ours).await, None);
    assert_eq!(tier.find(&theirs).await, Some(answer("theirs")));
}

#[tokio::test]
async fn a_refused_command_does_not_close_the_connection() {
    let (tier, key) = (open(), fresh_key(ProjectId::generate(), 1));
    let other = fresh_key(key.project(), 2);
    tier.store(&other, &answer("kept")).await;
    let _: u32 = raw(redis::cmd("RPUSH").arg(name_of(&key)).arg("not a string")).await;

    assert_eq!(tier.find(&key).await, None, "refused: it is a list");

    assert_eq!(tier.find(&other).await, Some(answer("kept")), "and without a cool-down");
}

/// How many times `deadline` passed on a stopped clock, whose timers round up to milliseconds.
fn deadlines_in(waited: Duration, deadline: Duration) -> u128 {
    waited.as_millis() / deadline.as_millis()
}

/// Accepts connections until it is dropped, and does with each what `serve` does.
struct Gate {
    address: String,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn open<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), serve)
    }

    fn at<F>(listener: TcpListener, serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = format!("redis://{}", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(number, stream));
            }
        });
        Self { address, accepted, _tasks: tasks }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Holds a connection open and says nothing.
async fn silence(stream: TcpStream) {
    let _held = stream;
    std::future::pending::<()>().await;
}

/// Joins a connection to the real Redis.
async fn forward(stream: &mut TcpStream) {
    let client = Client::open(test_redis()).unwrap();
    let redis::ConnectionAddr::Tcp(host, port) = client.get_connection_info().addr() else {
        panic!("TOLLGATE_TEST_REDIS must be a TCP address");
    };
    let mut redis = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    let _either_hung_up = tokio::io::copy_bidirectional(stream, &mut redis).await;
}

/// Joins a connection to the real Redis until `frozen`; then holds it open and says nothing.
async fn forward_until(mut frozen: watch::Receiver<bool>, mut stream: TcpStream) {
    tokio::select! {
        biased;
        _ = frozen.wait_for(|frozen| *frozen) => {}
        () = forward(&mut stream) => return,
    }
    silence(stream).await;
}

/// Hangs up on the first connection, and joins the others to the real Redis.
async fn hang_up_once(number: usize, mut stream: TcpStream) {
    if number > 0 {
        forward(&mut stream).await;
    }
}

// The clock stands still until everything waits; then it jumps to the next deadline.
#[tokio::test(start_paused = true)]
async fn a_redis_that_never_answers_costs_one_attempt_in_each_cool_down() {
    let gate = Gate::open(|_, stream| silence(stream)).await;
    let settings = RedisCacheSettings::default();
    let tier = RedisCache::new(&gate.address, settings).unwrap();
    let key = fresh_key(ProjectId::generate(), 1);

    let began = Instant::now();
    assert_eq!(tier.find(&key).await, None);
    assert_eq!(deadlines_in(began.elapsed(), settings.connect_deadline), 1);

    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(tier.find(&key).await, None);
        tier.store(&key, &answer("lost")).await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing is waited for");
    assert_eq!(gate.accepted(), 1);

    tokio::time::advance(settings.cool_down).await;
    assert_eq!(tier.find(&key).await, None);
    assert_eq!(tier.find(&key).await, None);
    assert_eq!(gate.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_request_that_tries() {
    let gate = Gate::open(|_, stream| silence(stream)).await;
    let tier = RedisCache::new(&gate.address, patient()).unwrap();
    let key = fresh_key(ProjectId::generate(), 1);

    let trying = tier.find(&key);
    let others = async {
        for _ in 0..100 {
            assert_eq!(tier.find(&key).await, None);
        }
        Instant::now()
    };
    let began = Instant::now();
    let (_, others_ended) = tokio::join!(biased; trying, others);

    assert_eq!(others_ended, began);
    assert_eq!(gate.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_stops_answering_is_given_up() {
    let (freeze, frozen) = watch::channel(false);
    let gate = Gate::open(move |_, stream| forward_until(frozen.clone(), stream)).await;
    let tier = RedisCache::new(&gate.address, patient()).unwrap();
    let key = fresh_key(ProjectId::generate(), 1);
    tier.store(&key, &answer("kept")).await;
    assert_eq!(tier.find(&key).await, Some(answer("kept")));

    freeze.send(true).unwrap();
    tokio::time::pause(); // so that the deadline passes as soon as everything waits for it
    tokio::time::advance(patient().cool_down).await; // long after the connection was made
    let began = Instant::now();
    assert_eq!(tier.find(&key).await, None);
    let waited = began.elapsed();
    assert_eq!(deadlines_in(waited, patient().response_deadline), 1);

    assert_eq!(tier.find(&key).await, None, "the cool-down has begun");
    assert_eq!(began.elapsed(), waited, "and nothing is waited for");
    tokio::time::advance(patient().cool_down).await;
    assert_eq!(tier.find(&key).await, None);
    assert_eq!(gate.accepted(), 2, "the old connection is not used again");
}

#[tokio::test]
async fn a_redis_that_hung_up_is_used_again_after_the_cool_down() {
    let gate = Gate::open(hang_up_once).await;
    let settings = RedisCacheSettings { cool_down: Duration::ZERO, ..patient() };
    let tier = RedisCache::new(&gate.address, settings).unwrap();
    let key = fresh_key(ProjectId::generate(), 1);
    assert_eq!(tier.find(&key).await, None);

    tier.store(&key, &answer("kept")).await;

    assert_eq!(tier.find(&key).await, Some(answer("kept")));
    assert_eq!(gate.accepted(), 2);
}

#[tokio::test]
async fn a_redis_that_is_down_at_the_start_is_a_miss_until_it_is_up() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(); // refuses until it listens
    let address = format!("redis://{}", socket.local_addr().unwrap());
    let settings = RedisCacheSettings { cool_down: Duration::ZERO, ..patient() };
    let tier = RedisCache::new(&address, settings).unwrap();
    let key = fresh_key(ProjectId::generate(), 1);

    assert_eq!(tier.find(&key).await, None);
    tier.store(&key, &answer("lost")).await;
    let _gate = Gate::at(socket.listen(16).unwrap(), |_, mut stream| async move {
        forward(&mut stream).await;
    });

    assert_eq!(tier.find(&key).await, None);
    tier.store(&key, &answer("kept")).await;
    assert_eq!(tier.find(&key).await, Some(answer("kept")));
}

#[test]
fn an_address_that_is_none_is_refused() {
    let error = RedisCache::new("http://cache:6379", patient()).err().expect("not a Redis address");

    assert!(error.to_string().contains("redis://host:port"), "{error}");
}
