/** The demo's story, asked of the system on a cluster: the same answers as on one machine, number by number. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { playStory } from "../../cli/commands/demo.ts";
import { writeSampleData } from "../../cli/generate-sample-data.ts";
import { chainPods } from "../support/cluster-chains.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";
import { playDemoHere } from "../support/demo-here.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const skip = await noCluster();

if (skip !== false) test("the demo's story on a cluster", { skip });
else {
  const installation = await clusterInstallation();
  const outputFolder = await temporaryFolder();
  const lines: string[] = [];
  const checks: { readonly what: string; readonly holds: boolean }[] = [];

  test("the demo's story, with both archetypes, the refusal and the change of agreement, ends with the known answers", async () => {
    const data = await temporaryFolder();
    for (const steward of ["VU", "UVA"] as const) await writeSampleData(join(data, steward), steward);
    await playStory({
      client: installation.client,
      adminKey: installation.adminKey,
      known: await averageSalaryBySex(data, ["VU", "UVA"]),
      outputFolder,
      write: (line) => lines.push(line),
      check: (what, holds) => {
        lines.push(`  ${holds ? "ok" : "WRONG"}: ${what}`);
        checks.push({ what, holds });
      },
    });
    const wrong = checks.filter(({ holds }) => !holds).map(({ what }) => what);
    assert.deepEqual(wrong, [], lines.join("\n"));
    assert.ok(checks.length >= 12, `only ${String(checks.length)} checks were made`);
  });

  test("one machine tells the same story, with the same numbers and the same chart", async () => {
    const here = await playDemoHere();
    assert.equal(comparable(lines.join("\n"), outputFolder), comparable(here.story, here.outputFolder));
    const name = "average-salary.svg";
    assert.equal(
      await readFile(join(outputFolder, name), "utf8"),
      await readFile(join(here.outputFolder, name), "utf8"),
    );
  });

  test("no chain's pod is left of it", async () => {
    await eventually(
      async () => {
        for (const party of ["VU", "UVA", "SURF"]) {
          const running = (await chainPods(installation, party)).filter(({ isOver }) => !isOver);
          assert.deepEqual(running, [], party);
        }
        return true;
      },
      { timeoutMs: 30_000, intervalMs: 500, describe: "the chains to end" },
    );
  });
}

/** Without what is another each time. */
function comparable(story: string, folder: string): string {
  return story
    .replaceAll(folder, "FOLDER")
    .replace(/\b[0-9a-f]{32}\b/g, "PSEUDONYM")
    .trim();
}
