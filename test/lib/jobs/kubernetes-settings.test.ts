import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  checkKubernetesSettings,
  KubernetesJobSettings,
  loadKubernetesSettings,
} from "../../../lib/jobs/kubernetes-settings.ts";
import { quantityOf } from "../../../lib/jobs/kubernetes-quantity.ts";
import { codeSpans, readPackageFile, tableOf } from "../../support/markdown.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("an image is all that must be said", () => {
  const settings = checkKubernetesSettings({ image: "dynamos:1" }, "here");
  assert.deepEqual(settings.mounts, { data: [], anonymizationKey: [], sidecar: [] });
  assert.equal(settings.startTimeoutMs, 60_000);
});

test("every fault is named at once, with where it is", () => {
  const value = { scratch: "much", runAsUser: 0, mounts: { elsewhere: [] }, unknown: 1 };
  assert.throws(
    () => checkKubernetesSettings(value, "jobs.json"),
    (error: Error) => {
      for (const place of ["/image", "/scratch", "/runAsUser", "/mounts/elsewhere", "/unknown"]) {
        assert.ok(error.message.includes(place), `${place} in: ${error.message}`);
      }
      return true;
    },
  );
});

test("Kubernetes' own objects are handed on as they are", async () => {
  const path = join(await temporaryFolder(), "jobs.json");
  const volumes = [{ name: "data", persistentVolumeClaim: { claimName: "vu-state", readOnly: true } }];
  const tolerations = [{ key: "dedicated", operator: "Exists" }];
  await writeFile(path, JSON.stringify({ image: "dynamos:1", volumes, tolerations }));
  const settings = await loadKubernetesSettings(path);
  assert.deepEqual(settings.volumes, volumes);
  assert.deepEqual(settings.tolerations, tolerations);
});

test("quantities are read as Kubernetes reads them", () => {
  const read = ["1", "0.5", "500m", "64Mi", "1Gi", "2k", "1e3", "much", "-1"].map(quantityOf);
  assert.deepEqual(read, [1, 0.5, 0.5, 64 * 2 ** 20, 2 ** 30, 2000, NaN, NaN, NaN]);
});

test("docs/configuration.md lists the jobs file's members with their defaults", async () => {
  const table = tableOf(await readPackageFile("docs/configuration.md"), "jobs file");
  const listed = table.rows.map((row) => [
    codeSpans(row["Member"] ?? "")[0],
    (row["Default"] ?? "").replaceAll("`", ""),
  ]);
  const defaults = checkKubernetesSettings({ image: "x" }, "here") as Record<string, unknown>;
  const expected = Object.keys(KubernetesJobSettings.properties).map((name) => [
    name,
    defaultText(name, defaults[name]),
  ]);
  assert.deepEqual(listed, expected);
});

function defaultText(name: string, value: unknown): string {
  if (name === "image") return "required";
  if (value === undefined || value === "") return "none";
  if (name === "mounts") return "{}";
  return typeof value === "string" ? value : JSON.stringify(value);
}
