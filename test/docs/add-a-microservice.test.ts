/** The guide's commands, run as they stand and in order, in a copy of this checkout; only the port differs. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import type { GatheredAnswer } from "../../cli/client.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { readPackageFile, sectionsOf } from "../support/markdown.ts";
import { startUpFrom } from "../support/running-command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const blocks = sectionsOf(await readPackageFile("docs/add-a-microservice.md")).flatMap((section) => section.code);

/** What a build and an exchange need of a checkout. */
const COPIED = ["agent", "cli", "configuration", "docs", "lib", "microservices", "orchestrator", "sdk", "sidecar"];

async function copyOfThisCheckout(): Promise<string> {
  const folder = await temporaryFolder();
  for (const name of [...COPIED, "package.json", "package-lock.json", "tsconfig.json"]) {
    await cp(join(packageRoot, name), join(folder, name), { recursive: true });
  }
  await symlink(join(packageRoot, "node_modules"), join(folder, "node_modules"));
  return folder;
}

test("a microservice copied from the template is built, put into chains, and answers", async () => {
  const folder = await copyOfThisCheckout();
  const run = async (part: string, url = ""): Promise<string> => {
    const block = blocks.find(({ text }) => text.includes(part));
    assert.ok(block, `the guide has a block with ${part}`);
    const script = block.text.replaceAll("http://localhost:8080", url);
    const options = { cwd: folder, timeout: 120_000, maxBuffer: 16 * 1024 * 1024 };
    return (await promisify(execFile)("sh", ["-eu", "-c", script], options)).stdout;
  };
  await run("npm run build");
  const exchange = await startUpFrom(folder, folder);
  after(async () => {
    const { code, stderr } = await exchange.interrupt();
    assert.equal(code, 0, stderr);
    await assertNoProcessLeft(folder);
  });
  await run("put requestTypes", exchange.url);
  const answer = JSON.parse(await run('firstRows": true', exchange.url)) as GatheredAnswer;
  assert.equal(answer.status, "ok", JSON.stringify(answer));
  const [response] = answer.responses;
  assert.equal(response?.rows?.length, 3);
  assert.match(JSON.stringify(response), /"firstRows":\{"limit":3,"of":\d+\}/);
  await run("chain.svg", exchange.url);
  assert.match(await readFile(join(folder, "chain.svg"), "utf8"), /first(?:-|&#45;)rows/);
  assert.equal(blocks.filter(({ language }) => language === "sh").length, 4, "every block of the guide is run here");
});
