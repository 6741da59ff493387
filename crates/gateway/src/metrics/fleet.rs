//! How workers and their queues stand, in Prometheus's text form: what an autoscaler needs.
//!
//! Labels are workers and models that workers serve, never what a client chose.

use std::fmt::Write;

use domain::Stage;
use routing::{BreakerState, Figures, Lane, Router, WAIT_BOUNDS, WorkerFigures};

/// A figure of a worker's state.
type Read = fn(&proto::WorkerState) -> f64;

/// Everything about routing.
pub(crate) fn text(router: &Router) -> String {
    let figures = router.figures();
    let mut text = String::new();
    write_queues(&mut text, &figures);
    write_workers(&mut text, &figures.workers);
    write_counts(&mut text, &figures);
    text
}

fn head(text: &mut String, (name, kind, help): (&str, &str, &str)) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn write_queues(text: &mut String, figures: &Figures) {
    let name = "tollgate_queue_length";
    head(text, (name, "gauge", "Requests that wait for a worker."));
    for (model, lanes) in &figures.queued {
        for (lane, waiting) in Lane::ALL.iter().zip(lanes) {
            let (lane, model) = (lane.name(), quoted(model.as_str()));
            let _ = writeln!(text, "{name}{{class=\"{lane}\",digest={model}}} {waiting}");
        }
    }
    let name = "tollgate_queue_wait_seconds";
    head(text, (name, "histogram", "Time until a worker took a request."));
    for (lane, waits) in Lane::ALL.iter().zip(&figures.waits) {
        let lane = lane.name();
        for (bound, count) in WAIT_BOUNDS.iter().zip(waits.within) {
            let bound = bound.as_secs_f64();
            let _ = writeln!(text, "{name}_bucket{{class=\"{lane}\",le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (waits.count, waits.sum.as_secs_f64());
        let _ = writeln!(text, "{name}_bucket{{class=\"{lane}\",le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{class=\"{lane}\"}} {sum}");
        let _ = writeln!(text, "{name}_count{{class=\"{lane}\"}} {count}");
    }
}

fn write_workers(text: &mut String, workers: &[WorkerFigures]) {
    let name = "tollgate_workers";
    head(text, (name, "gauge", "Workers by stage."));
    let of_stage = |stage: Stage| {
        let states = workers.iter().filter_map(|worker| worker.state.as_ref());
        states.filter(|state| state.stage == stage).count()
    };
    for stage in [Stage::Serving, Stage::Draining, Stage::Evacuating] {
        let _ = writeln!(text, "{name}{{stage=\"{}\"}} {}", stage.name(), of_stage(stage));
    }
    let lost = workers.iter().filter(|worker| worker.state.is_none()).count();
    let _ = writeln!(text, "{name}{{stage=\"unreachable\"}} {lost}");

    let name = "tollgate_worker_breaker";
    head(text, (name, "gauge", "1 for the state the worker's breaker is in."));
    for worker in workers {
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            let (is, worker_name) = (u8::from(worker.breaker == state), quoted(&worker.name));
            let state = state.name();
            let _ = writeln!(text, "{name}{{worker={worker_name},state=\"{state}\"}} {is}");
        }
    }
    let gauges: [(&str, &str, Read); 5] = [
        ("tollgate_worker_kv_used_ratio", "KV blocks in use, of all.", |state| {
            let used = state.total_blocks.saturating_sub(state.free_blocks);
            f64::from(used) / f64::from(state.total_blocks.max(1))
        }),
        (
            "tollgate_worker_first_token_seconds",
            "Predicted time to the first token of a sequence that came now.",
            |state| state.first_token_in.as_secs_f64(),
        ),
        ("tollgate_worker_step_seconds", "From one token to the next, lately.", |state| {
            state.step_time.as_secs_f64()
        }),
        ("tollgate_worker_running", "Sequences being computed.", |state| state.running.into()),
        ("tollgate_worker_waiting", "Sequences accepted, not yet started.", |state| {
            state.waiting.into()
        }),
    ];
    let counters: [(&str, &str, Read); 2] = [
        (
            "tollgate_worker_drafted_tokens_total",
            "Tokens looked up in a sequence's own text and computed before they were known.",
            |state| state.drafted_tokens as f64,
        ),
        ("tollgate_worker_accepted_tokens_total", "Those of them that became output.", |state| {
            state.accepted_tokens as f64
        }),
    ];
    let gauges = gauges.map(|it| ("gauge", it));
    let counters = counters.map(|it| ("counter", it));
    for (kind, (name, help, read)) in gauges.into_iter().chain(counters) {
        head(text, (name, kind, help));
        for worker in workers {
            if let Some(state) = &worker.state {
                let _ = writeln!(text, "{name}{{worker={}}} {}", quoted(&worker.name), read(state));
            }
        }
    }
}

fn write_counts(text: &mut String, figures: &Figures) {
    let name = "tollgate_continuations_total";
    head(text, (name, "counter", "Sequences that went on elsewhere, by cause."));
    for (cause, count) in &figures.went_on {
        let _ = writeln!(text, "{name}{{cause=\"{}\"}} {count}", cause.name());
    }
    for (what, count) in &figures.counts {
        let name = format!("tollgate_routing_{what}_total");
        head(text, (&name, "counter", "Counted by the router since the start."));
        let _ = writeln!(text, "{name} {count}");
    }
}

/// A label's value, with its quotes.
fn quoted(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{value}\"")
}
