/** A back-up of etcd, and the core begun from it again: what docs/kubernetes.md says under "Back-up and restore". */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { agreementKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { PARTY_SECRET } from "../support/cluster-credentials.ts";
import { forwardService } from "../support/cluster-forward.ts";
import { secretValue } from "../support/cluster-installation.ts";
import { newSuffix, removeNamespaces } from "../support/cluster-namespaces.ts";
import {
  addSteward,
  coreNamespace,
  installCore,
  makeSite,
  partyNamespace,
  type Site,
} from "../support/cluster-releases.ts";
import { helm, kubectl, noCluster } from "../support/cluster-tools.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const AGREEMENT = agreementKeys.key({ steward: "VU" });
const KEPT = ["--set", "keepDataOnUninstall=true"];
const skip = await noCluster();

describe("a core that is backed up", { skip }, () => {
  const site: Site = { suffix: process.env["DYNAMOS_TEST_RUN"] || newSuffix(), prefix: "backup-" };
  const core = coreNamespace(site);
  const VU = partyNamespace(site, "VU");
  let snapshot = "";
  after(() => removeNamespaces(site.suffix, "backup-dynamos", "backup-vu"));

  test("has its snapshots in a volume of their own, where the console sees them", async () => {
    await makeSite(site, ["VU"]);
    await installCore(site, ...KEPT, "--set", "backup.enabled=true");
    await addSteward(site, "VU", "dataProvider");
    await asRoot((store) => store.put(AGREEMENT, { text: "before" }));
    await kubectl(["create", "job", "by-hand", "-n", core, "--from=cronjob/core-backup"]);
    await kubectl(["wait", "job/by-hand", "-n", core, "--for=condition=Complete", "--timeout=90s"]);
    snapshot = (await kubectl(["exec", "-n", core, "deploy/core-console", "--", "ls", "/backups"])).trim();
    assert.match(snapshot, /^etcd-\d{8}T\d{6}Z\.db$/);
  });

  test("begins with a snapshot where etcd's volume is lost: documents and credentials are those of then", async () => {
    await asRoot((store) => store.put(AGREEMENT, { text: "after" }));
    await kubectl(["delete", "job", "by-hand", "-n", core, "--wait"]);
    await helm(["uninstall", "core", "-n", core, "--wait"]);
    await kubectl(["delete", "persistentvolumeclaim", "data-core-etcd-0", "-n", core, "--wait"]);
    await installCore(site, ...KEPT, "--set", `etcd.restore.file=${snapshot}`);
    assert.deepEqual(await asRoot((store) => store.get(AGREEMENT).then((found) => found?.value)), { text: "before" });
    const password = await secretValue(VU, PARTY_SECRET, "store-password");
    const found = await asUser("dynamos-agent-VU", password, (store) => store.get(AGREEMENT));
    assert.deepEqual(found?.value, { text: "before" });
  });

  test("keeps what came after a restore when its pod begins anew", async () => {
    await asRoot((store) => store.put(AGREEMENT, { text: "since" }));
    await kubectl(["delete", "pod", "core-etcd-0", "-n", core, "--wait"]);
    await kubectl(["rollout", "status", "statefulset/core-etcd", "-n", core, "--timeout=90s"]);
    assert.deepEqual(await asRoot((store) => store.get(AGREEMENT).then((found) => found?.value)), { text: "since" });
  });

  async function asRoot<Result>(work: (store: KnowledgeStore) => Promise<Result>): Promise<Result> {
    return asUser("root", await secretValue(core, "core-root", "etcd-password"), work);
  }

  async function asUser<Result>(
    user: string,
    password: string,
    work: (store: KnowledgeStore) => Promise<Result>,
  ): Promise<Result> {
    const passwordFile = join(await temporaryFolder(), "password");
    await writeFile(passwordFile, password, { mode: 0o600 });
    const forward = await forwardService(core, "core-etcd", "client");
    try {
      const store = await openKnowledgeStore(
        `etcd://${user}@127.0.0.1:${String(forward.port)}?passwordFile=${passwordFile}`,
      );
      try {
        return await work(store);
      } finally {
        await store.close();
      }
    } finally {
      await forward.close();
    }
  }
});
