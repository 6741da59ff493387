//! The scripts against the arithmetic they are a copy of: the same messages, at the same moments, must get the
//! same answers.

use admission::bank::Wish;
use domain::{RuleId, ScopeId};
use fastrand::Rng;
use redis::Client;
use redis::aio::MultiplexedConnection;

use super::*;
use crate::bank_book::Book;

/// Redis with a clock and a life of our choosing.
struct Stopped {
    connection: MultiplexedConnection,
    organization: OrganizationId,
    micros: u64,
    life: u32,
}

impl Stopped {
    async fn open() -> Self {
        let client = Client::open(crate::cache_redis::tests::test_redis()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let organization = OrganizationId::generate();
        Self { connection, organization, micros: 1_780_000_000_000_000, life: 0 }
    }

    fn script(&self, text: &str) -> Script {
        let time = "local moment = redis.call('TIME')";
        let (seconds, micros) = (self.micros / 1_000_000, self.micros % 1_000_000);
        let stopped = format!("local moment = {{'{seconds}', '{micros}'}}");
        let life = "local text = redis.call('INFO', 'server')\n  return string.match(text, 'run_id:(%w+)')";
        assert!(text.contains(time) && text.contains(life), "the scripts have changed");
        let text =
            text.replace(time, &stopped).replace(life, &format!("return 'life{}'", self.life));
        Script::new(&text)
    }

    async fn draw(&mut self, draw: &Draw) -> Drawn {
        let script = self.script(DRAW_TEXT);
        let call = draw_call(&script, draw);
        let words: Vec<String> = call.invoke_async(&mut self.connection).await.unwrap();
        match Reply::parse(&words, draw).unwrap() {
            Reply::Drawn(drawn) => drawn,
            Reply::Lost => panic!("the book is of another life"),
        }
    }

    async fn found(&mut self, foundings: &[Founding]) {
        let script = self.script(FOUND_TEXT);
        let call = found_call(&script, self.organization, foundings);
        let _: String = call.invoke_async(&mut self.connection).await.unwrap();
    }

    /// Restarts the server.
    async fn lose(&mut self, holders: &[GatewayId], time_to_live: Duration) {
        self.life += 1;
        let script = self.script(LOSE_TEXT);
        let waited: Vec<_> = holders.iter().map(|id| (*id, time_to_live + MARGIN)).collect();
        let call = lose_call(&script, self.organization, &waited, time_to_live);
        let _: String = call.invoke_async(&mut self.connection).await.unwrap();
    }
}

/// `Book::lose` adds it itself.
const MARGIN: Duration = Duration::from_millis(2);

/// A random history of three gateways, told to both.
struct History {
    random: Rng,
    redis: Stopped,
    book: Book,
    numbers: [u64; 3],
    seed: u64,
    /// Some of the amounts are larger than a double can tell apart.
    scale: i64,
}

impl History {
    async fn begin(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut redis = Stopped::open().await;
        // Every life of a server begins with nothing to be believed.
        let mut book = Book::default();
        redis.lose(&[], Duration::ZERO).await;
        book.lose(&[], Duration::ZERO, redis.micros);
        let scale = [1, 1_000, 1_000_000_000_000_000][random.usize(..3)];
        Self { random, redis, book, numbers: [0; 3], seed, scale }
    }

    async fn go_on(&mut self) {
        match self.random.u32(..100) {
            0..80 => self.draw().await,
            80..92 => self.redis.micros += self.random.u64(..2_000_000),
            92..96 => self.redis.micros += self.random.u64(..40_000_000),
            96..98 => self.found_any().await,
            _ => self.lose().await,
        }
    }

    async fn draw(&mut self) {
        let at = self.random.usize(..3);
        // Messages can be late.
        let late = self.random.u32(..20) == 0;
        if !late {
            self.numbers[at] += self.random.u64(1..3) * NUMBER_STEP;
        }
        let mut accounts: Vec<u128> = (0..ACCOUNTS).collect();
        self.random.shuffle(&mut accounts);
        let wishes = (0..self.random.usize(..4)).map(|index| self.wish(accounts[index])).collect();
        let draw = Draw {
            gateway: gateway(at),
            number: self.numbers[at],
            organization: self.redis.organization,
            complete: self.random.u32(..8) == 0,
            wishes,
            time_to_live: Duration::from_millis(self.random.u64(1_000..30_000)),
        };

        let expected = self.book.draw(&draw, self.redis.micros);
        let drawn = self.redis.draw(&draw).await;

        assert_eq!(drawn, expected, "seed {}: {draw:?}", self.seed);
        if let Drawn::Unknown(indices) = &drawn
            && self.random.u32(..4) > 0
        {
            let accounts: Vec<AccountId> =
                indices.iter().map(|index| draw.wishes[*index].account).collect();
            self.found(&accounts).await;
        }
    }

    fn wish(&mut self, number: u128) -> Wish {
        let account = account(number);
        let mut amount = |most: i64| self.random.i64(0..=most) * self.scale + self.random.i64(0..3);
        let kind = match number % 3 {
            0 => AccountKind::Pool { capacity: amount(900) },
            1 => AccountKind::Slots { capacity: amount(50) / self.scale },
            _ => AccountKind::Rate { per_minute: amount(600) },
        };
        let want = amount(300);
        let least = self.random.i64(0..=want);
        let spent = self.random.i64(0..=want);
        let has = spent.saturating_add(self.random.i64(0..100));
        match kind {
            AccountKind::Rate { .. } if self.random.u32(..4) == 0 => {
                Wish { account, kind, spent: 0, has, want: -want, least: -want }
            }
            AccountKind::Rate { .. } | AccountKind::Slots { .. } => {
                Wish { account, kind, spent: 0, has, want, least }
            }
            AccountKind::Pool { .. } => Wish { account, kind, spent, has, want, least },
        }
    }

    async fn found_any(&mut self) {
        let number = self.random.u128(..ACCOUNTS) / 3 * 3;
        self.found(&[account(number)]).await;
    }

    async fn found(&mut self, accounts: &[AccountId]) {
        let mut foundings = Vec::new();
        for account in accounts {
            let mut spent = Vec::new();
            for at in 0..self.random.usize(..=3) {
                spent.push((gateway(at), self.random.i64(0..200) * self.scale));
            }
            foundings.push(Founding { account: *account, spent });
        }
        self.book.found(&foundings, self.redis.micros);
        self.redis.found(&foundings).await;
    }

    async fn lose(&mut self) {
        let holders: Vec<GatewayId> = (0..self.random.usize(..=3)).map(gateway).collect();
        let time_to_live = Duration::from_millis(self.random.u64(1_000..5_000));
        self.book.lose(&holders, time_to_live, self.redis.micros);
        self.redis.lose(&holders, time_to_live).await;
    }
}

fn gateway(at: usize) -> GatewayId {
    GatewayId::from_u128(at as u128 + 1)
}

fn account(number: u128) -> AccountId {
    AccountId {
        scope: ScopeId::Project(domain::Id::from_u128(1)),
        rule: RuleId::from_u128(number),
        window: Timestamp::from_millis(0),
    }
}

#[tokio::test]
async fn scripts_answer_as_the_arithmetic_in_memory_does() {
    for seed in 0..100 {
        let mut history = History::begin(seed).await;
        for _ in 0..120 {
            history.go_on().await;
        }
    }
}

const ACCOUNTS: u128 = 6;
/// Numbers of messages are moments in nanoseconds: larger than a double tells apart.
const NUMBER_STEP: u64 = 60_000_000_000_000_001;
