import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { CsvParser, readCsvFile } from "../../../agent/data/csv.ts";
import type { AppError } from "../../../lib/errors.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

type Cell = string | null;

/** All records of some bytes, handed over in parts of `size`; an unquoted empty field is null. */
function parse(content: string | Buffer, size = 1 << 16, delimiter = ";", maxRecordCharacters = 1000): Cell[][] {
  const records: Cell[][] = [];
  const parser = new CsvParser({ delimiter, fileName: "file.csv", maxRecordCharacters }, (record) => {
    records.push(
      Array.from({ length: record.fieldCount }, (_, i) =>
        record.texts[i] === "" && !record.quoted[i] ? null : (record.texts[i] ?? null),
      ),
    );
  });
  const bytes = Buffer.from(content);
  for (let at = 0; at < bytes.length; at += size) parser.push(bytes.subarray(at, at + size));
  parser.end();
  return records;
}

const rows = [
  ["a", "b"],
  ["1", "2"],
  ["3", "4"],
];

const readable: readonly [name: string, content: string | Buffer, expected: Cell[][], delimiter?: string][] = [
  ["lines that end with LF", "a;b\n1;2\n3;4\n", rows],
  ["lines that end with CRLF", "a;b\r\n1;2\r\n3;4\r\n", rows],
  ["lines that end with CR", "a;b\r1;2\r3;4\r", rows],
  ["lines that end with CRCRLF", "a;b\r\r\n1;2\r\r\n3;4\r\r\n", rows],
  ["line ends of different kinds", "a;b\r\n1;2\r3;4\n", rows],
  ["a last line without an end", "a;b\n1;2\n3;4", rows],
  ["a UTF-8 byte-order mark", "\uFEFFa;b\n1;2\n3;4\n", rows],
  ["another delimiter", "a\tb\n1\t2\n3\t4\n", rows, "\t"],
  ["a quoted first name behind a byte-order mark", '\uFEFF"a";b\n1;2\n3;4\n', rows],
  [
    "delimiters in quotes",
    'a;b\n"1;1";2\n',
    [
      ["a", "b"],
      ["1;1", "2"],
    ],
  ],
  [
    "line ends in quotes, as they are",
    'a;b\r\n"1\r\n1";"2\r2"\r\n',
    [
      ["a", "b"],
      ["1\r\n1", "2\r2"],
    ],
  ],
  [
    "doubled quotes",
    'a;b\n"say ""hi""";""""\n',
    [
      ["a", "b"],
      ['say "hi"', '"'],
    ],
  ],
  [
    "empty cells, and empty text in quotes",
    'a;b\n;""\n"";\n',
    [
      ["a", "b"],
      [null, ""],
      ["", null],
    ],
  ],
  [
    "spaces, which belong to the cell",
    "a;b\n 1 ; 2\n",
    [
      ["a", "b"],
      [" 1 ", " 2"],
    ],
  ],
  [
    "characters of two, three and four bytes",
    "é;€\n😀;ß\n",
    [
      ["é", "€"],
      ["😀", "ß"],
    ],
  ],
];

for (const [name, content, expected, delimiter] of readable) {
  test(`reads ${name}, wherever the parts of the file are cut`, () => {
    for (const size of [1, 2, 3, 5, 1 << 16])
      assert.deepEqual(parse(content, size, delimiter), expected, `parts of ${size}`);
  });
}

const utf16 = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from("a;b\n", "utf16le")]);
const refused: readonly [name: string, content: string | Buffer, line: number, column: number, says: RegExp][] = [
  ["a quote inside an unquoted field", 'a;b\n1;2"2\n', 2, 4, /quote stands inside/],
  ["text behind a closing quote", 'a;b\n"1"x;2\n', 2, 4, /Behind a closing quote/],
  ["a quote that is never closed", 'a;b\n1;2\n3;"4\n', 3, 3, /never closed/],
  ["a record without end", `a;b\n"${"x\n".repeat(600)}`, 2, 1, /more than 1000 characters/],
  ["UTF-16 with a byte-order mark", utf16, 1, 1, /UTF-16/],
  ["UTF-16 without one", Buffer.from("a;b\n", "utf16le"), 1, 2, /NUL/],
  ["a byte that is not UTF-8", Buffer.from("a;b\n1;\xe9\n", "latin1"), 2, 3, /not UTF-8/],
  ["a character cut off at the end", Buffer.from([0x61, 0x0a, 0x62, 0xe2, 0x82]), 2, 2, /not UTF-8/],
  ["a fault behind line ends in quotes", 'a;b\r\n"1\r\n\r1";2\r\nx;y"\r\n', 5, 4, /quote stands inside/],
];

for (const [name, content, line, column, says] of refused) {
  test(`refuses ${name}, and says where`, () => {
    for (const size of [1, 3, 1 << 16]) {
      assert.throws(
        () => parse(content, size),
        (error: AppError) => {
          assert.equal(error.code, "data_invalid");
          assert.deepEqual(error.place, { file: "file.csv", line, column }, `parts of ${size}`);
          assert.match(error.message, says);
          return true;
        },
      );
    }
  });
}

test("a delimiter that cannot delimit is refused", () => {
  for (const delimiter of ['"', "\n", "\r", "", ";;"]) {
    assert.throws(() => parse("a\n", 1, delimiter), { code: "configuration_invalid" });
  }
});

test("a file that is not there is named", async () => {
  await assert.rejects(
    readCsvFile("/nowhere/x.csv", { delimiter: ";" }, () => undefined),
    {
      code: "not_found",
      message: /\/nowhere\/x\.csv/,
    },
  );
});

test("reading stops when it is cancelled", async () => {
  const path = join(await temporaryFolder(), "large.csv");
  await writeFile(path, "a;b\n".repeat(200_000));
  const stop = new AbortController();
  let records = 0;
  const reading = readCsvFile(path, { delimiter: ";", signal: stop.signal }, () => {
    if (++records === 10) stop.abort();
  });
  await assert.rejects(reading, { name: "AbortError" });
  assert.ok(records < 200_000);
});
