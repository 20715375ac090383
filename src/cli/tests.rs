//! Command lines, and what they mean.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::error::ErrorKind> {
    Cli::try_parse_from(line.split(' ')).map_err(|error| error.kind())
}

fn check(line: &str, expected: Command) {
    assert_eq!(parse(line).map(|cli| cli.command), Ok(expected), "{line}");
}

fn check_wrong(line: &str) {
    let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
    assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line}: {error}");
}

fn users_of(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn client(command: ClientCommand) -> Command {
    Command::Client(command)
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn commands_are_parsed() {
    check("seatkeeper run", Command::Run);
    check("seatkeeper check --connect", Command::Check { connect: true });
    check("seatkeeper status", client(ClientCommand::Status));
    check("seatkeeper verify --json", client(ClientCommand::Verify { store: None }));
    let store = Some("x.redb".into());
    check("seatkeeper verify --store x.redb", client(ClientCommand::Verify { store }));
    check("seatkeeper backup b", client(ClientCommand::Backup { file: "b".into() }));
    check("seatkeeper restore b --replace", Command::Restore { file: "b".into(), replace: true });
    check("seatkeeper store new", Command::Store(StoreCommand::New));
    check("seatkeeper clock confirm", client(ClientCommand::Clock(ClockCommand::Confirm)));
    check("seatkeeper man", Command::Man);
    check("seatkeeper completions bash", Command::Completions { shell: clap_complete::Shell::Bash });
    check("seatkeeper explain alice", client(ClientCommand::Explain { user: "alice".to_owned() }));
    let users = ["alice", "bob@example.org"].map(str::to_owned).to_vec();
    let grant = SeatsCommand::Grant { users: users.clone(), file: None, partial: false, dry_run: false };
    check("seatkeeper seats grant alice bob@example.org", client(ClientCommand::Seats(grant)));
    let listed =
        SeatsCommand::Grant { users: Vec::new(), file: Some("-".into()), partial: true, dry_run: true };
    check("seatkeeper seats grant --file - --partial --dry-run", client(ClientCommand::Seats(listed)));
    let release = SeatsCommand::Release { users: users.clone(), force: true };
    check("seatkeeper seats release --force alice bob@example.org", client(ClientCommand::Seats(release)));
    let release = SeatsCommand::Release { users, force: false };
    check("seatkeeper seats release alice bob@example.org", client(ClientCommand::Seats(release)));
    let history = SeatsCommand::History { user: None, limit: 100 };
    check("seatkeeper seats history", client(ClientCommand::Seats(history)));
    let history = SeatsCommand::History { user: Some("alice".to_owned()), limit: 7 };
    check("seatkeeper seats history alice --limit 7", client(ClientCommand::Seats(history)));
    let reclaim = SeatsCommand::Reclaim { inactive: Duration::from_secs(86_400), dry_run: true, yes: false };
    check("seatkeeper seats reclaim --inactive 1d --dry-run", client(ClientCommand::Seats(reclaim)));
    let text = |text: &str| Some(text.to_owned());
    let one =
        SeatsCommand::Move { old: text("a"), new: text("b"), by: None, from: None, to: None, dry_run: false };
    check("seatkeeper seats move a b", client(ClientCommand::Seats(one)));
    let all = SeatsCommand::Move {
        old: None,
        new: None,
        by: Some(MatchName::Mail),
        from: text("old"),
        to: text("ad"),
        dry_run: true,
    };
    let line = "seatkeeper seats move --match mail --from old --to ad --dry-run";
    check(line, client(ClientCommand::Seats(all)));
    let directory = |command| client(ClientCommand::Directory(command));
    check("seatkeeper directory list", directory(DirectoryCommand::List));
    let rename = |dry_run| directory(DirectoryCommand::Rename { old: "a".into(), new: "b".into(), dry_run });
    check("seatkeeper directory rename a b", rename(false));
    check("seatkeeper directory rename a b --dry-run", rename(true));
    let forget = DirectoryCommand::Forget { name: "a".to_owned(), dry_run: true };
    check("seatkeeper directory forget a --dry-run", directory(forget));
    let refused = SeatsCommand::Refused { limit: 100 };
    check("seatkeeper seats refused", client(ClientCommand::Seats(refused)));
    let add = AccountCommand::Add {
        address: "ada".to_owned(),
        name: Some("Ada".to_owned()),
        aliases: users_of("a b"),
    };
    let line = "seatkeeper account add ada --name Ada --alias a --alias b";
    check(line, client(ClientCommand::Account(add)));
    let import =
        ImportArgs { file: "people.csv".into(), domain: "x.org".to_owned(), partial: false, dry_run: true };
    check("seatkeeper import people.csv --domain x.org --dry-run", client(ClientCommand::Import(import)));
    let disable = AccountCommand::Disable { address: "ada".to_owned() };
    check("seatkeeper account disable ada", client(ClientCommand::Account(disable)));
}

#[test]
fn users_takes_filters_and_an_order() {
    check("seatkeeper users", client(ClientCommand::Users(UsersArgs::default())));
    let args = UsersArgs {
        action: None,
        seated: true,
        unseated: false,
        inactive: Some(Duration::from_secs(180 * 86_400)),
        never: false,
        domain: Some("example.org".to_owned()),
        sort: SortOrder::LastLogin,
    };
    let line = "seatkeeper users --seated --inactive 180d --domain example.org --sort last-login";
    check(line, client(ClientCommand::Users(args)));
    for sort in SortOrder::value_variants() {
        let value = sort.to_possible_value().unwrap();
        assert_eq!(value.get_name(), sort.as_str());
    }
}

#[test]
fn sync_and_sync_approve_are_told_apart() {
    let sync = |args| client(ClientCommand::Sync(args));
    let corp = || Some("corp".to_owned());
    check("seatkeeper sync", sync(SyncArgs::default()));
    check("seatkeeper sync corp", sync(SyncArgs { directory: corp(), ..SyncArgs::default() }));
    let args = SyncArgs { directory: corp(), full: true, dry_run: true, wait: true, action: None };
    check("seatkeeper sync corp --full --dry-run --wait", sync(args));
    let approve = |wait| SyncAction::Approve { directory: "corp".to_owned(), by: None, wait };
    let args = |wait| SyncArgs { action: Some(approve(wait)), ..SyncArgs::default() };
    check("seatkeeper sync approve corp", sync(args(false)));
    check("seatkeeper sync approve corp --wait", sync(args(true)));
    let by = Some(MatchName::Login);
    let matched = SyncAction::Approve { directory: "corp".to_owned(), by, wait: false };
    let matched = SyncArgs { action: Some(matched), ..SyncArgs::default() };
    check("seatkeeper sync approve corp --match login", sync(matched));
    check("seatkeeper --json sync approve corp", sync(args(false)));
    check("seatkeeper sync approve --json corp", sync(args(false)));
    check("seatkeeper --config x.toml sync approve corp", sync(args(false)));
    check_wrong("seatkeeper sync approve");
    check_wrong("seatkeeper sync corp approve corp");
    check_wrong("seatkeeper sync --dry-run approve corp");
    check_wrong("seatkeeper sync approve corp --dry-run");
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "seatkeeper --config x.toml --json status",
        "seatkeeper status --json --config x.toml",
        "seatkeeper --json seats history --config x.toml",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.config, cli.json), (PathBuf::from("x.toml"), true), "{line}");
    }
}

#[test]
fn mistakes_are_usage_errors() {
    check_wrong("seatkeeper");
    check_wrong("seatkeeper dance");
    check_wrong("seatkeeper users --seated --unseated");
    check_wrong("seatkeeper users --inactive soon");
    check_wrong("seatkeeper users --inactive 1d --never");
    check_wrong("seatkeeper seats reclaim");
    check_wrong("seatkeeper import people.csv");
    check_wrong("seatkeeper account");
    check_wrong("seatkeeper account add");
    check_wrong("seatkeeper users --sort age");
    check_wrong("seatkeeper seats");
    check_wrong("seatkeeper seats grant");
    check_wrong("seatkeeper seats release");
    check_wrong("seatkeeper directory");
    check_wrong("seatkeeper directory rename a");
    check_wrong("seatkeeper directory forget");
    check_wrong("seatkeeper seats move");
    check_wrong("seatkeeper seats move a");
    check_wrong("seatkeeper seats move a b --dry-run");
    check_wrong("seatkeeper seats move a b --match mail --from a --to b");
    check_wrong("seatkeeper seats move --match mail --from a");
    check_wrong("seatkeeper seats move --match name --from a --to b");
    check_wrong("seatkeeper seats move --from a --to b");
    check_wrong("seatkeeper seats history --limit 0");
    check_wrong("seatkeeper seats history --limit 10001");
    check_wrong("seatkeeper explain");
    // The last word is empty.
    for command in
        ["explain", "users forget", "seats grant", "seats release alice", "seats history", "seats move a"]
    {
        check_wrong(&format!("seatkeeper {command} "));
    }
    for command in
        ["account add", "account remove", "directory rename a", "directory forget", "sync", "sync approve"]
    {
        check_wrong(&format!("seatkeeper {command} "));
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in clap_complete::Shell::value_variants() {
        let mut script = Vec::new();
        completions(*shell, &mut script).unwrap();
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("approve") && script.contains("dry-run"), "{shell}");
    }
}
