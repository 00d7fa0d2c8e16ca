//! The machine is lost: what is left is the binary, the store with its credentials, the age identity,
//! and the public key on the recovery sheet. In an empty directory, as the README says.

use strongroom_tests::documents::{Documents, Setup};
use strongroom_tests::relay::private;
use strongroom_tests::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};
use strongroom_tests::tree::{self, differences};
use strongroom_tests::{Sandbox, root};

/// A backup of a small tree in a real S3 server, encrypted; its id and the key that signed it.
fn backed_up(server: &S3Server) -> (Documents, String, String) {
    let store = format!(
        "type = \"s3\"\nbucket = \"{BUCKET}\"\nprefix = \"production\"\nregion = \"us-east-1\"\n\
         endpoint = \"http://127.0.0.1:{}\"\npath_style = true\n\
         access_key = {{ file = \"access\" }}\nsecret_key = {{ file = \"secret\" }}",
        server.port()
    );
    let documents = Documents::with(&Setup { store: Some(store), ..Setup::default() });
    for (name, text) in [("access", ACCESS_KEY), ("secret", SECRET_KEY)] {
        private(&documents.sandbox.write(name, text));
    }
    std::fs::create_dir(documents.source().join("folder")).unwrap();
    std::fs::write(documents.source().join("folder/a file"), "of great value").unwrap();
    std::os::unix::fs::symlink("a file", documents.source().join("folder/link")).unwrap();
    tree::noise(&documents.source().join("of 20 MB"), 20_000_000);
    documents.run(&["store", "check", "main"]).check_code(0);
    let id = documents.backup(0);
    documents.run(&["verify", "documents", "--depth", "restore", "--target", "found"]).check_code(0);
    let shown = documents.run(&["key", "show"]);
    let key =
        shown.check_code(0).stdout.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap().to_owned();
    (documents, id, key)
}

/// The words of the README's two commands, with this test's store, key and job in their places.
fn commands_of_the_readme(url: &str, key: &str) -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## When the machine is lost").nth(1).expect("the section");
    let block = section.split("```").nth(1).expect("a block of commands").replace("\\\n", " ");
    let commands = block.lines().filter(|line| line.starts_with("strongroom "));
    let word = |word: &str| match word {
        "'s3://backups/production?region=eu-west-1'" => url.to_owned(),
        "srhost1-…" => key.to_owned(),
        "orders" => "documents".to_owned(),
        word => word.to_owned(),
    };
    commands.map(|line| line.split_whitespace().skip(1).map(word).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_machine_is_restored_with_the_commands_of_the_readme() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (documents, id, key) = backed_up(&server);
    let mut empty = Sandbox::new();
    std::fs::copy(documents.sandbox.path("identity.txt"), empty.path("identity.txt")).unwrap();
    private(&empty.path("identity.txt"));
    empty.set_env("AWS_ACCESS_KEY_ID", ACCESS_KEY).set_env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);

    let endpoint = format!("http://127.0.0.1:{}", server.port());
    let url = format!("s3://{BUCKET}/production?region=us-east-1&endpoint={endpoint}&path_style=true");
    let commands = commands_of_the_readme(&url, &key);
    assert_eq!(commands.len(), 2, "list and restore: {commands:?}");
    empty.run(&commands[0]).check_code(0).check_stdout(&id).check_stdout(&key);

    // As the README says for a tree of files, first as a plan.
    let with: Vec<_> = commands[1]
        .iter()
        .map(String::as_str)
        .chain(["--bucket", "found=./found", "--option", "to_bucket=found"])
        .collect();
    empty.run(&with).check_code(0).check_stdout("nothing was changed");
    assert_eq!(tree::count(&empty.path("found")), 0);
    let without_grant = with.iter().filter(|word| **word != "--grant-requested");
    empty.run(without_grant).check_code(4).check_stderr("--grant-requested").check_stderr("bucket \"found\"");
    let without_plan: Vec<_> = with.iter().copied().filter(|word| *word != "--plan").collect();
    empty.run(&without_plan).check_code(0);
    assert_eq!(differences(&documents.source(), &empty.path("found")), [""; 0]);
    // Nothing is written over, here neither.
    empty.run(&without_plan).check_code(1).check_stderr("there already");
}
