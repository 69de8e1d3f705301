import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AnswerScanner } from "../../orchestrator/answer-scanner.ts";

const answer = {
  provider: "VU",
  columns: [{ name: "a,]}", type: "text" }],
  rows: [{ a: 'quote " and \\ and ]' }, { a: "é→", b: [1, [2]] }, { a: null }],
  graph: { rows: [1, 2] },
  status: "ok",
  problem: { detail: "é" },
};

/** Feeds the first `length` bytes in chunks; what may be passed on, and the scanner. */
function pass(bytes: Buffer, length: number, sizes: readonly number[]) {
  const scanner = new AnswerScanner();
  let passed = "";
  let held = Buffer.alloc(0);
  for (let from = 0, turn = 0; from < length; turn++) {
    const to = Math.min(length, from + (sizes[turn % sizes.length] ?? 1));
    const chunk = bytes.subarray(from, to);
    const cut = scanner.scan(chunk);
    if (cut >= 0) {
      passed += Buffer.concat([held, chunk.subarray(0, cut)]).toString("utf8");
      held = Buffer.from(chunk.subarray(cut));
    } else held = Buffer.concat([held, chunk]);
    from = to;
  }
  return { scanner, passed };
}

test("an answer that breaks off anywhere can be closed to valid JSON that holds the rows that were whole", () => {
  const rowOrValue = fc.jsonValue({ maxDepth: 3 });
  const anyAnswer = fc.record({
    provider: fc.constant("VU"),
    columns: rowOrValue,
    rows: fc.array(fc.dictionary(fc.string(), rowOrValue)),
    extra: rowOrValue,
    status: fc.constant("ok"),
  });
  const sizes = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(
      anyAnswer,
      fc.double({ min: 0, max: 1, noNaN: true }),
      sizes,
      fc.boolean(),
      (value, share, chunks, spaced) => {
        const bytes = Buffer.from(JSON.stringify(value, null, spaced ? 2 : 0));
        const length = Math.floor(bytes.length * share);
        const { scanner, passed } = pass(bytes, length, chunks);
        if (scanner.isEnded) return assert.deepEqual(JSON.parse(passed), JSON.parse(bytes.toString("utf8")));
        if (scanner.closing === "") return assert.equal(passed, "");
        const closed = JSON.parse(`${passed}${scanner.closing}"status":"failed"}`) as {
          rows?: unknown[];
          status: string;
        };
        assert.equal(closed.status, "failed");
        const rows = closed.rows ?? [];
        assert.deepEqual(rows, (JSON.parse(JSON.stringify(value.rows)) as unknown[]).slice(0, rows.length));
      },
    ),
    { numRuns: 400 },
  );
});

test("a whole answer is passed on byte by byte, and its small members are known", () => {
  const text = JSON.stringify(answer);
  const bytes = Buffer.from(text);
  const { scanner, passed } = pass(bytes, bytes.length, [1]);
  assert.equal(passed, text);
  assert.equal(scanner.isEnded, true);
  assert.deepEqual([scanner.member("status"), scanner.member("problem")], ["ok", { detail: "é" }]);
});

test("a row is passed on as soon as the next one begins", () => {
  const scanner = new AnswerScanner();
  const text = '{"provider":"VU","rows":[{"n":1},{"n":2}';
  const cut = scanner.scan(Buffer.from(text));
  assert.equal(text.slice(0, cut), '{"provider":"VU","rows":[{"n":1}');
});
