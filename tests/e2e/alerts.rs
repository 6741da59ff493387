//! Alerts: an organization hears of its budgets, once for each threshold, signed.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use std::time::Duration;
use system_tests::{Asked, Outsider, Serve, run, until};

use crate::questions::{ENDLESS_PROMPT, dollars, endless, price};

#[tokio::test]
async fn a_budget_that_reaches_its_thresholds_is_told_of_by_a_signed_webhook() -> anyhow::Result<()>
{
    let serve = Serve::start().await?;
    // The first call finds the receiver out of order; the alert must not be lost.
    let receiver =
        Outsider::start(|number| (if number == 0 { 500 } else { 200 }, "{}".to_owned())).await?;
    let budget = price(ENDLESS_PROMPT, 100);
    let rule = format!("usd={},alert=50,alert=90", dollars(budget));
    let key = serve.create_key("watched", &["--budget", &rule]).await?;
    let data = serve.data().display().to_string();
    let url = receiver.url("/alerts");
    let organization = ["organizations", "update", &key.organization];
    let webhook = ["--webhook", &url, "--webhook-secret", SECRET];
    run(&[&["admin", "--data", &data][..], &organization[..], &webhook[..]].concat()).await?;
    let api = serve.api().with_key(&key.api_key);

    let told = api.stream(&endless(60)).await?;
    let spent = told.charge().expect("the last chunk tells the charge");
    let half = delivered(&receiver, 1).await?;
    api.stream(&endless(1500)).await?;
    let both = delivered(&receiver, 2).await?;

    assert_eq!(half[0].0["percent"], 50);
    assert_eq!(half[0].0["spent"], spent);
    assert_eq!(half[0].0["amount"], budget);
    assert_eq!(half[0].0["scope"], key.id.as_str());
    assert_eq!(both[1].0["percent"], 90);
    for (_, asked) in both {
        check_signature(&asked);
    }
    let calls = receiver.asked();
    assert_eq!(calls[0].body, calls[1].body, "the one that failed is told again");
    Ok(())
}

/// The alerts that were taken, once there are `number` of them, each with the call that brought it.
async fn delivered(receiver: &Outsider, number: usize) -> anyhow::Result<Vec<(Value, Asked)>> {
    let look = async || {
        let taken = receiver.asked().into_iter().skip(1);
        let taken: Vec<_> = taken
            .map(|asked| Ok((serde_json::from_str(&asked.body)?, asked)))
            .collect::<anyhow::Result<_>>()?;
        Ok((taken.len() >= number).then_some(taken))
    };
    until(&format!("{number} alerts are taken"), LIMIT, look).await
}

fn check_signature(asked: &Asked) {
    let signature = asked.header("x-tollgate-signature").expect("it is signed");
    let (time, shown) = signature
        .strip_prefix("t=")
        .and_then(|rest| rest.split_once(",v1="))
        .expect("it has a time and a signature");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{time}.{}", asked.body).as_bytes());
    let right = mac.finalize().into_bytes();
    let right: Vec<String> = right.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(shown, right.concat());
}

const SECRET: &str = "a secret that only the receiver knows";
const LIMIT: Duration = Duration::from_secs(30);
