//! What changed between two texts, as a patch that `patch` and `git apply` take.

/// Lines around a change.
const CONTEXT: usize = 3;
/// Beyond this many pairs of lines, what lies between the first and the last difference is one change.
const MAX_PAIRS: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Keep(usize, usize),
    Remove(usize),
    Add(usize),
}

/// A unified diff; empty when the texts are equal.
pub fn unified(name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let a: Vec<&str> = old.split_inclusive('\n').collect();
    let b: Vec<&str> = new.split_inclusive('\n').collect();
    let ops = operations(&a, &b);
    let mut out = format!("--- a/{name}\n+++ b/{name}\n");
    let mut at = 0;
    while let Some(first) = (at..ops.len()).find(|&n| !matches!(ops[n], Op::Keep(..))) {
        let start = first.saturating_sub(CONTEXT).max(at);
        // The hunk goes on until two contexts' worth of lines are unchanged.
        let mut last = first;
        for (n, op) in ops.iter().enumerate().skip(first) {
            if !matches!(op, Op::Keep(..)) {
                last = n;
            } else if n - last > 2 * CONTEXT {
                break;
            }
        }
        let end = (last + 1 + CONTEXT).min(ops.len());
        hunk(&mut out, &a, &b, &ops, start, end);
        at = end;
    }
    out
}

fn hunk(out: &mut String, a: &[&str], b: &[&str], ops: &[Op], start: usize, end: usize) {
    let before = |n: usize| ops[..n].iter().filter(|op| !matches!(op, Op::Add(_))).count();
    let after = |n: usize| ops[..n].iter().filter(|op| !matches!(op, Op::Remove(_))).count();
    let (a_lines, b_lines) = (before(end) - before(start), after(end) - after(start));
    // An empty side is named by the line before it.
    let a_at = before(start) + usize::from(a_lines > 0);
    let b_at = after(start) + usize::from(b_lines > 0);
    out.push_str(&format!("@@ -{a_at},{a_lines} +{b_at},{b_lines} @@\n"));
    for op in &ops[start..end] {
        let (sign, line) = match *op {
            Op::Keep(n, _) => (' ', a[n]),
            Op::Remove(n) => ('-', a[n]),
            Op::Add(n) => ('+', b[n]),
        };
        out.push(sign);
        out.push_str(line);
        if !line.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    }
}

/// The shortest way from `a` to `b` by lines, removals before additions.
fn operations(a: &[&str], b: &[&str]) -> Vec<Op> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (a_end, b_end) = (a.len() - tail, b.len() - tail);
    let mut ops: Vec<Op> = (0..head).map(|n| Op::Keep(n, n)).collect();
    let (rows, columns) = (a_end - head, b_end - head);
    if rows.saturating_mul(columns) > MAX_PAIRS {
        ops.extend((head..a_end).map(Op::Remove));
        ops.extend((head..b_end).map(Op::Add));
    } else {
        // `common[i][j]`: lines that the rests from i and j have in common, in order.
        let mut common = vec![vec![0_u32; columns + 1]; rows + 1];
        for i in (0..rows).rev() {
            for j in (0..columns).rev() {
                common[i][j] = if a[head + i] == b[head + j] {
                    common[i + 1][j + 1] + 1
                } else {
                    common[i + 1][j].max(common[i][j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < rows || j < columns {
            if i < rows && j < columns && a[head + i] == b[head + j] {
                ops.push(Op::Keep(head + i, head + j));
                i += 1;
                j += 1;
            } else if j == columns || (i < rows && common[i + 1][j] >= common[i][j + 1]) {
                ops.push(Op::Remove(head + i));
                i += 1;
            } else {
                ops.push(Op::Add(head + j));
                j += 1;
            }
        }
    }
    ops.extend((0..tail).map(|n| Op::Keep(a_end + n, b_end + n)));
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_patch() {
        assert_eq!(unified("x", "a\n", "a\n"), "");
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        assert_eq!(unified("x", old, new), "--- a/x\n+++ b/x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    }

    #[test]
    fn changes_far_apart_are_hunks_of_their_own() {
        let lines = |a: &str, b: &str| {
            (0..20).map(|n| if n == 2 { a.to_owned() } else if n == 17 { b.to_owned() } else { n.to_string() } + "\n").collect::<String>()
        };
        let patch = unified("x", &lines("a", "b"), &lines("A", "B"));
        assert_eq!(patch.matches("@@ -").count(), 2, "{patch}");
    }

    #[test]
    fn an_end_without_a_newline_is_told() {
        assert!(unified("x", "a", "a\nb").contains("-a\n\\ No newline at end of file\n+a\n+b\n\\ No newline"));
    }

    #[test]
    fn an_empty_file_is_named_by_line_zero() {
        assert!(unified("x", "", "a\n").contains("@@ -0,0 +1,1 @@\n+a\n"));
    }
}
