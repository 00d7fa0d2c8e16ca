//! The fixed texts that run in a pod, and what the first of them reads before the program does.
//!
//! They need `/bin/sh` in the container and nothing else; with `tee` or `perl`, and `cksum` or `wc`, that are
//! there and work, more is known of what came through. What is run comes as the first lines of standard input, with its
//! arguments and variables: the script is one text, always the same, so that nothing of a slot or a secret
//! is in its own arguments, which the API server's audit log and the pod's process list show. Names
//! of its own variables begin with `sr_`, which no variable of a command may.

use crate::error::{Error, Kind, Result};
use crate::exec::cannot_start;
use crate::policy::exec::CommandLine;
use zeroize::Zeroizing;

/// What names of variables may not begin with.
const OWN_PREFIX: &str = "sr_";

/// Runs a program. It has no arguments.
///
/// Standard input: the marker; a line `alone`, `fed` or `counted SIZE`; for the program and each of its
/// arguments a line with the number of its lines, and those; a line with a dot; for each variable a line
/// with its name and the number of its lines, and those; a line with a dot; what the program reads. A shell
/// reads its lines byte by byte, so that nothing of that is taken away.
///
/// Standard error: lines that begin with the marker say that the program runs and how its output will be
/// proven (`run cksum`, `run count`, `run marker`), that it has ended, how many bytes of its input it left,
/// and what was measured of its output, beside it. Standard output ends with a NUL and the marker.
///
/// What passes output on and lets it be measured is `perl` where it is there, else `tee`: that copies 8 KiB
/// at a time through pipes of 64 KiB, and each of its pieces becomes a message of the node and of the API
/// server, which costs them half as much again. `fcntl` 1031 is `F_SETPIPE_SZ`.
///
/// `counted` is for a program that would take a cut for the end of its input: when fewer bytes arrive than
/// were announced, everything that the program started is killed before its input is closed.
pub(super) const START: &str = r#"sr_nl='
'
IFS= read -r sr_marker && IFS=' ' read -r sr_mode sr_size || exit 125
sr_word=${sr_marker##*-}
sr_larger='open(F,">&=",shift)||exit 1;
fcntl($_,1031,1<<20)for*STDIN,*STDOUT,*F;
sub w{my($h,$o)=(shift,0);while($o<$n){my$k=syswrite$h,$b,$n-$o,$o;exit 1 if!defined$k;$o+=$k}}
while($n=sysread STDIN,$b,1<<18){w(*STDOUT);w(*F)}
exit!defined$n'
sr_copy() {
  if [ -n "$sr_perl" ]; then
    PERL5OPT= PERL5LIB= PERL_BADLANG=0 LC_ALL=C "$sr_perl" -e "$sr_larger" "$1"
  else
    "$sr_tee" "/dev/fd/$1"
  fi
}
sr_copies() { [ "$(printf x | { sr_copy 5 >/dev/null; } 5>&1 2>/dev/null)" = x ]; }
sr_perl=$(command -v perl 2>/dev/null)
sr_tee=
if [ -z "$sr_perl" ] || ! sr_copies; then
  sr_perl=
  sr_tee=$(command -v tee 2>/dev/null)
  if [ -z "$sr_tee" ] || ! sr_copies; then sr_tee=; fi
fi
sr_copier=$sr_perl$sr_tee
sr_wc=$(command -v wc 2>/dev/null)
sr_sum=$(command -v cksum 2>/dev/null)
sr_proof=cksum
if [ -z "$sr_sum" ] || [ "$(printf x | "$sr_sum" 2>/dev/null)" != '12738659 1' ]; then sr_sum=$sr_wc; sr_proof=count; fi
if [ -z "$sr_copier" ] || [ -z "$sr_sum" ]; then sr_proof=marker; fi
sr_kill() {
  sr_files=
  if printf 'a\0b\0' | grep -qzF b 2>/dev/null; then
    sr_files=$(grep -lzsF -- "$sr_word" /proc/[0-9]*/environ)
  else
    for sr_file in /proc/[0-9]*/environ; do
      while IFS= read -r sr_line || [ -n "$sr_line" ]; do
        case $sr_line in *"$sr_word"*) sr_files="$sr_files $sr_file"; break ;; esac
      done 2>/dev/null <"$sr_file"
    done 2>/dev/null
  fi
  sr_found=0
  for sr_file in $sr_files; do
    sr_pid=${sr_file#/proc/}
    kill -s KILL "${sr_pid%/environ}" 2>/dev/null && sr_found=1
  done
}
sr_text() {
  sr_lines=$1
  IFS= read -r sr_value || return 1
  while [ "$sr_lines" -gt 1 ]; do
    IFS= read -r sr_line || return 1
    sr_value=$sr_value$sr_nl$sr_line
    sr_lines=$((sr_lines - 1))
  done
}
sr_variables() {
  while IFS=' ' read -r sr_name sr_lines; do
    if [ "$sr_name" = . ]; then return 0; fi
    sr_text "$sr_lines" || return 1
    export "$sr_name=$sr_value"
  done
  return 1
}
sr_run() { (STRONGROOM_EXEC=$sr_word; export STRONGROOM_EXEC; exec "$@"); }
sr_left() {
  sr_rest=0
  if [ -n "$sr_wc" ]; then
    sr_rest=$("$sr_wc" -c)
  else
    while IFS= read -r sr_line || [ -n "$sr_line" ]; do sr_rest=1; done 2>/dev/null
  fi
  echo "$sr_marker left $((sr_rest))" >&2
}
sr_feed() {
  exec 7>&1
  sr_got=$({ sr_copy 6 >&7; } 6>&1 | "$sr_wc" -c)
  if [ "$((sr_got))" = "$sr_size" ]; then return; fi
  echo "$sr_marker short $((sr_got))" >&2
  sr_turns=0; sr_killed=0
  while [ "$sr_turns" -lt 50 ]; do
    sr_kill
    if [ "$sr_found" = 0 ] && [ "$sr_killed" = 1 ]; then return; fi
    if [ "$sr_found" = 1 ]; then sr_killed=1; fi
    sr_turns=$((sr_turns + 1))
  done
}
sr_program() {
  while IFS= read -r sr_lines && [ "$sr_lines" != . ]; do
    sr_text "$sr_lines" || exit 125
    set -- "$@" "$sr_value"
  done
  sr_variables || exit 125
  if [ ! -e "$1" ]; then echo "$sr_marker missing" >&2; exit 127; fi
  if [ -d "$1" ] || [ ! -x "$1" ]; then echo "$sr_marker denied" >&2; exit 126; fi
  if [ "$sr_mode" = counted ] && { [ -z "$sr_copier" ] || [ -z "$sr_wc" ]; }; then
    echo "$sr_marker bare" >&2; exit 126
  fi
  trap : TERM
  echo "$sr_marker run $sr_proof" >&2
  case $sr_mode in
  alone)
    sr_run "$@" </dev/null; sr_code=$?
    echo "$sr_marker end" >&2 ;;
  fed)
    sr_run "$@"; sr_code=$?
    echo "$sr_marker end" >&2
    sr_left ;;
  counted)
    sr_feed | {
      trap : TERM
      sr_run "$@"; sr_code=$?
      echo "$sr_marker end" >&2
      sr_left
      exit "$sr_code"
    }
    sr_code=$? ;;
  esac
  exit "$sr_code"
}
if [ "$sr_proof" = marker ]; then
  (sr_program); sr_code=$?
else
  if [ "$sr_proof" = count ]; then sr_how=-c; else sr_how=; fi
  exec 3>&1
  sr_said=$({ { { (sr_program 3>&- 4>&- 5>&-); echo "$?" >&4; } | sr_copy 5 >&3 4>&-; } 5>&1 >/dev/null | "$sr_sum" $sr_how >&4 3>&-; } 4>&1)
  set -- $sr_said
  sr_code=$1; shift
  echo "$sr_marker sum $*" >&2
fi
printf '\000%s' "$sr_marker"
exit "$sr_code""#;

/// Puts the word into the environment of the script that ends programs, so that it finds at least itself.
/// Arguments: a signal, the word, the text of that script.
pub(super) const CARRY: &str = r#"STRONGROOM_EXEC=$2; export STRONGROOM_EXEC; exec /bin/sh -c "$3" sh "$1" "$2""#;

/// How the program is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It reads nothing.
    Alone,
    /// It reads, and knows a cut from an end, or does nothing at either.
    Fed,
    /// It reads this many bytes, and nothing less.
    Counted(u64),
}

/// The first lines of standard input.
///
/// Errors: `Invalid` for a variable that a shell cannot have, or that is one of the wrapper's own, and for
/// an argument with a NUL.
pub(super) fn opening(
    command: &CommandLine,
    marker: &str,
    mode: Mode,
    variables: &[(String, Zeroizing<String>)],
) -> Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    let mode = match mode {
        Mode::Alone => "alone 0".to_owned(),
        Mode::Fed => "fed 0".to_owned(),
        Mode::Counted(bytes) => format!("counted {bytes}"),
    };
    text.extend_from_slice(format!("{marker}\n{mode}\n").as_bytes());
    for word in std::iter::once(&command.program).chain(&command.args) {
        if word.contains('\0') {
            return Err(cannot_start(Kind::Invalid, command, "an argument holds a NUL"));
        }
        push(&mut text, "", word);
    }
    text.extend_from_slice(b".\n");
    for (name, value) in variables {
        let is_name = !name.is_empty()
            && name
                .bytes()
                .enumerate()
                .all(|(at, b)| b == b'_' || b.is_ascii_alphabetic() || (at > 0 && b.is_ascii_digit()));
        if !is_name || name.starts_with(OWN_PREFIX) {
            let reason = format!("{name:?} cannot be a variable of a command in a pod");
            return Err(cannot_start(Kind::Invalid, command, reason)
                .fact("expected", "letters, digits and _, not a digit first, and not sr_"));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("the variable {name:?} holds a NUL")));
        }
        push(&mut text, &format!("{name} "), value);
    }
    text.extend_from_slice(b".\n");
    Ok(text)
}

/// A line with the number of the value's lines behind `before`, and those.
fn push(text: &mut Zeroizing<Vec<u8>>, before: &str, value: &str) {
    text.extend_from_slice(format!("{before}{}\n", value.split('\n').count()).as_bytes());
    text.extend_from_slice(value.as_bytes());
    text.push(b'\n');
}
