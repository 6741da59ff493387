//! The command line: bad input ends every command with one clear line and a status that says so.

use system_tests::attempt;

/// A configuration, and what its refusal has to name.
type Row = (&'static str, &'static [&'static str]);

const GATEWAYS: &[Row] = &[
    ("", &["data"]),
    ("data = 7\nworkers = []", &["gateway.toml:1"]),
    ("data = \"d\"\nworkers = []\nport = 1", &["gateway.toml:3", "port"]),
    ("data = \"d\"\nworkers = []\nlisten = \"here\"", &["gateway.toml:3"]),
    ("data = \"d\"\nworkers = [", &["gateway.toml:2"]),
    ("data = \"d\"\nworkers = []\n[limits]\nrequest_timeout = \"soon\"", &["gateway.toml:4"]),
    (
        "data = \"d\"\nlisten = \"0.0.0.0:1\"\nadmin_listen = \"0.0.0.0:2\"\ngpu_time_markup_percent = 0\n\
         [[workers]]\naddress = \"worker\"\n[[prices]]\nmodel = \"m\"\ninput = \"1e3\"\noutput = \"-1\"\n\
         [limits]\nmax_body_bytes = 0\nrequest_timeout = \"0s\"",
        &[
            "listen: ",
            "admin_listen: ",
            "gpu_time_markup_percent: ",
            "workers[0].address: ",
            "prices[0].input: ",
            "prices[0].output: ",
            "limits.max_body_bytes: ",
            "limits.request_timeout: ",
        ],
    ),
    (
        "data = \"d\"\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         worker_token_file = \"missing.token\"\nworkers = []",
        &["missing.token", "No such file"],
    ),
    (
        "data = \"d\"\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = []\n\
         [tls]\ncertificate = \"missing.pem\"\nkey = \"missing.pem\"",
        &["missing.pem", "No such file"],
    ),
];

const WORKERS: &[Row] = &[
    ("listen = 7", &["worker.toml:1"]),
    ("color = 7", &["worker.toml:1", "color"]),
    ("[engine]\nmax_sequences = -1", &["worker.toml:2"]),
    ("drain_timeout = \"soon\"", &["worker.toml:1"]),
    (
        "listen = \"0.0.0.0:1\"\nprice_per_hour_usd = \"free\"\n[model]\nname = \" \"\ntokenizer = \"x\"",
        &["token_file: ", "price_per_hour_usd: ", "model.name: ", "model.tokenizer: "],
    ),
    (
        "listen = \"127.0.0.1:0\"\n[model]\nname = \"m\"\npath = \"missing-model\"",
        &["start model m", "missing-model"],
    ),
    ("listen = \"127.0.0.1:0\"\n[engine]\nstep_tokens = 1", &["start model", "step_tokens"]),
    (
        "listen = \"127.0.0.1:0\"\ntoken_file = \"missing.token\"",
        &["missing.token", "No such file"],
    ),
    (
        "listen = \"127.0.0.1:0\"\n[tls]\ncertificate = \"missing.pem\"\nkey = \"missing.pem\"",
        &["[tls]", "missing.pem", "No such file"],
    ),
];

#[tokio::test]
async fn a_bad_configuration_is_one_line_that_names_every_problem() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (role, rows) in [("gateway", GATEWAYS), ("worker", WORKERS)] {
        let config = folder.path().join(format!("{role}.toml"));
        for (text, named) in rows {
            let data = folder.path().join("d").display().to_string();
            std::fs::write(&config, text.replace("\"d\"", &format!("\"{data}\"")))?;
            let config = config.display().to_string();
            check(&[role, "--config", &config], named, text).await?;
        }
        check(&[role, "--config", "/no/such/file.toml"], &["/no/such/file.toml"], role).await?;
        let directory = folder.path().display().to_string();
        check(&[role, "--config", &directory], &[&directory], role).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_argument_is_one_line_that_names_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().display().to_string();
    let nowhere = folder.path().join("nowhere").display().to_string();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a directory")?;
    let file = file.display().to_string();
    let absent = format!("key_{}", "0".repeat(32));
    let project = format!("proj_{}", "0".repeat(32));

    let rows: &[(&[&str], &[&str])] = &[
        (&["admin", "--data", &data, "keys", "create", "--name", " "], &["name"]),
        (&["admin", "--data", &file, "keys", "create", "--name", "a"], &[&file]),
        (&["admin", "--data", &nowhere, "keys", "list"], &[&nowhere, "--data"]),
        (&["admin", "--data", &file, "keys", "list"], &[&file]),
        (&["admin", "--data", &data, "keys", "revoke", &absent], &[&absent]),
        (&["admin", "--data", &data, "keys", "update", &absent, "--block"], &[&absent]),
        (&["admin", "--data", &data, "projects", "update", &project, "--name", "x"], &[&project]),
        (&["admin", "--data", &nowhere, "projects", "show", &project], &[&nowhere]),
        (
            &[
                "admin",
                "--data",
                &data,
                "organizations",
                "create",
                "--name",
                "a",
                "--time-zone",
                "Mars",
            ],
            &["time_zone", "Mars"],
        ),
        (
            &[
                "admin",
                "--data",
                &data,
                "admins",
                "create",
                "--name",
                "a",
                "--role",
                "project-member",
            ],
            &["--project"],
        ),
        (&["admin", "--data", &data, "usage", "--from", "2026-11-01T00:00:01Z"], &["from"]),
        (&["ledger", "verify", "--data", &nowhere], &[&nowhere]),
        (
            &["serve", "--data", &file, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
            &[&file],
        ),
    ];
    for (arguments, named) in rows {
        check(arguments, named, &arguments.join(" ")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_argument_is_refused() -> anyhow::Result<()> {
    let project = format!("proj_{}", "0".repeat(32));
    for arguments in [
        &[][..],
        &["fly"],
        &["serve", "--listen", "here"],
        &["serve", "--fast"],
        &["gateway"],
        &["worker", "--config"],
        &["admin"],
        &["admin", "keys"],
        &["admin", "keys", "create"],
        &["admin", "keys", "create", "--name", "a", "--limit", "requests-per-minute=-1"],
        &["admin", "keys", "create", "--name", "a", "--budget", "usd=lots"],
        &["admin", "keys", "create", "--name", "a", "--budget", "usd=-1"],
        &["admin", "keys", "revoke", "abc"],
        &["admin", "keys", "revoke", &project],
        &["admin", "prices", "create", "--model", "m"],
        &["ledger"],
    ] {
        let output = attempt(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--help"), "{arguments:?}: {said}");
    }
    Ok(())
}

/// The command fails with one line that names all of `named`.
async fn check(arguments: &[&str], named: &[&str], what: &str) -> anyhow::Result<()> {
    let output = attempt(arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{what}\n{said}");
    assert!(output.stdout.is_empty(), "{what}\n{}", String::from_utf8_lossy(&output.stdout));
    let errors: Vec<&str> = said.lines().filter(|line| !is_log(line)).collect();
    assert_eq!(errors.len(), 1, "{what}\n{said}");
    assert!(errors[0].starts_with("error: "), "{what}\n{said}");
    for part in named {
        assert!(errors[0].contains(part), "`{part}` is not named\n{what}\n{said}");
    }
    Ok(())
}

/// Gateways and workers log what they do before they fail.
fn is_log(line: &str) -> bool {
    line.contains(" INFO")
}
