/**
 * The commands of README and docs, run as they stand against a started exchange; only the port differs. Blocks of `npm`
 * commands are not run from here: `architecture.test.ts` looks the scripts up, and the demo has a system test of its own.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { symlink, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import type { Answer, GatheredAnswer } from "../../cli/client.ts";
import { packageRoot } from "../../lib/package-root.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { codeSpans, readPackageFile, sectionsOf, type CodeBlock } from "../support/markdown.ts";
import { startUp } from "../support/running-command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

// Commands for servers and deployments of the reader's: `server-commands.test.ts` and the tests of these commands run them.
const FOR_SERVERS = /^(?:npx dynamos|etcdctl|rabbitmqctl|helm|kubectl)\b/m;
// Measurements take minutes: `test/bench` runs each at its smallest size.
const MEASURES = /\bnpm run bench\b/;
const architecture = await readPackageFile("docs/architecture.md");
const readme = shellBlocks(await readPackageFile("README.md"));

/** A checkout as the reader's terminal has it; what commands write lands here. */
const folder = await temporaryFolder();
for (const name of ["configuration", "dist", "docs", "sdk", "package.json"]) {
  await symlink(join(packageRoot, name), join(folder, name));
}
const exchange = await startUp(folder);
after(async () => {
  const { code, stderr } = await exchange.interrupt();
  assert.equal(code, 0, stderr);
  await assertNoProcessLeft(folder);
});

function shellBlocks(markdown: string): readonly CodeBlock[] {
  const blocks = sectionsOf(markdown).flatMap((section) => section.code);
  const isOfNpm = (text: string): boolean => text.split("\n").every((line) => /^(?:npm |#|\s*$)/.test(line));
  return blocks.filter(
    ({ language, text }) => language === "sh" && !isOfNpm(text) && !FOR_SERVERS.test(text) && !MEASURES.test(text),
  );
}

/** Runs a block as a shell would, and gives what it printed. */
async function run(block: CodeBlock | undefined): Promise<string> {
  assert.ok(block, "the document has such a block");
  const script = block.text.replaceAll("http://localhost:8080", exchange.url);
  const options = { cwd: folder, timeout: 60_000, maxBuffer: 16 * 1024 * 1024 };
  return (await promisify(execFile)("sh", ["-eu", "-c", script], options)).stdout;
}

/** The README's block in which this stands. */
function readmeBlock(part: string): CodeBlock | undefined {
  return readme.find(({ text }) => text.includes(part));
}

/** Fails for members that the architecture's table with this first column does not list. */
function assertDocumented(value: object, firstColumn: string): void {
  const tables = sectionsOf(architecture).flatMap((section) => section.tables);
  const rows = tables.find(({ columns }) => columns[0] === firstColumn)?.rows ?? [];
  const listed = rows.flatMap((row) => codeSpans(row[firstColumn] ?? ""));
  assert.deepEqual(
    Object.keys(value).filter((member) => !listed.includes(member)),
    [],
  );
}

test("npm start says how to ask, and what it prints is an example that works", async () => {
  const printed = exchange.printed();
  const example = printed.slice(printed.indexOf("curl "), printed.indexOf("Stop with"));
  const answer = JSON.parse(await run({ language: "sh", text: example, line: 0 })) as GatheredAnswer;
  assert.equal(answer.status, "ok");
});

test("the question in one go is answered by both stewards, and pooled", async () => {
  const answer = JSON.parse(await run(readmeBlock("average-salary-by-sex"))) as GatheredAnswer;
  assert.deepEqual([answer.status, answer.archetype], ["ok", "computeToData"]);
  assert.deepEqual(
    answer.pooled?.rows?.map(({ Geslacht }) => Geslacht),
    ["M", "V"],
  );
  assertDocumented(answer, "Member of the front door's answer");
  for (const response of answer.responses) assertDocumented(response, "Member of an agent's answer");
});

test("with the approval's token, a steward's agent answers as CSV, and anonymized", async () => {
  const printed = await run(readmeBlock("text/csv"));
  assert.match(printed, /^Functcat,count_Aanst_22,average_Aanst_22\r?\nHGL,\d+,[\d.]+\r?\n/);
  const answer = JSON.parse(printed.slice(printed.indexOf("{"))) as Answer;
  assertDocumented(answer, "Member of an agent's answer");
  assert.equal(answer.rows?.length, 3);
  for (const row of answer.rows ?? []) {
    assert.match(String(row["Unieknr"]), /^[0-9a-f]{32}$/);
    assert.match(String(row["Gebdat"]), /^\d{4}-01-01$/);
  }
});

test("the approval says what the architecture says it does", async () => {
  const [block] = [readmeBlock("text/csv")];
  const approval = `${block?.text.split("\ntoken=")[0] ?? ""}\necho "$approval"`;
  const answer = JSON.parse(await run({ language: "sh", text: approval, line: 0 })) as { readonly refused: unknown };
  assertDocumented(answer, "Member of an approval");
  assert.deepEqual(answer.refused, [{ provider: "RUG", code: "no_agreement", detail: "RUG has no agreement." }]);
});

test("the median through the third party comes with a chart", async () => {
  await run(readmeBlock("median"));
  const answer = JSON.parse(await readFile(join(folder, "median.json"), "utf8")) as GatheredAnswer;
  assert.deepEqual([answer.status, answer.archetype], ["ok", "dataThroughTtp"]);
  assert.deepEqual([...(answer.pooled?.providers ?? [])].sort(), ["UVA", "VU"]);
  const [response] = answer.responses;
  assert.match(response?.graph?.svg ?? "", /^<svg/);
  assertDocumented(response ?? {}, "Member of an agent's answer");
});

test("a chain is drawn, and an agreement is written with the admin key", async () => {
  const written = JSON.parse(await run(readmeBlock("chain.svg"))) as Agreement;
  assert.equal(written.name, "VU");
  assert.match(await readFile(join(folder, "chain.svg"), "utf8"), /<svg[^]*sql(?:-|&#45;)anonymize[^]*<\/svg>/);
});

test("every command block of the README is run by a test above", () => {
  const tested = ["average-salary-by-sex", "text/csv", "median", "chain.svg"].map(readmeBlock);
  assert.deepEqual(
    readme.filter((block) => !tested.includes(block)),
    [],
  );
});

/** Builds a microservice, which takes a checkout of its own: `add-a-microservice.test.ts` runs its commands. */
const WITH_A_TEST_OF_ITS_OWN = "add-a-microservice.md";

const documents = (await readdir(join(packageRoot, "docs"))).filter((file) => file.endsWith(".md"));
for (const name of documents.filter((document) => document !== WITH_A_TEST_OF_ITS_OWN)) {
  for (const block of shellBlocks(await readPackageFile(`docs/${name}`))) {
    test(`the commands at line ${String(block.line)} of docs/${name} succeed`, async () => {
      await run(block);
    });
  }
}
