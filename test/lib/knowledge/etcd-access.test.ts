/** Users, roles and certificates, on a real etcd. */
import assert from "node:assert/strict";
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type KnowledgeStore } from "../../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../../lib/knowledge/open.ts";
import { CertificateAuthority, noCertificates } from "../../support/certificates.ts";
import { type EtcdOptions, type EtcdServer, noEtcdProgram, startEtcd } from "../../support/etcd.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const skip = noEtcdProgram();
const skipTls = skip || noCertificates();

const ROOT = { name: "root", password: "root-secret" };
const VU = { name: "VU", password: "vu-secret", prefix: "/exchange/agents/VU/" };
const EXCHANGE = { name: "exchange", password: "exchange-secret", prefix: "/exchange/" };

async function server(context: TestContext, options: EtcdOptions = {}): Promise<EtcdServer> {
  const started = await startEtcd(options);
  context.after(() => started.stop());
  return started;
}

async function open(context: TestContext, url: string): Promise<KnowledgeStore> {
  const store = await openKnowledgeStore(url);
  context.after(() => store.close());
  return store;
}

/** Fails with this code and message, and tells no password. */
function refusal(code: string, message: RegExp) {
  return (error: Error & { code: string; retryable: boolean }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /secret/);
    assert.equal(error.retryable, false);
    return true;
  };
}

test("a user reads and writes below its role's prefix, and is denied all else by name", { skip }, async (context) => {
  const etcd = await server(context);
  await etcd.enableAuth(ROOT.password, [VU, EXCHANGE]);
  const agent = await open(context, etcd.url("/exchange", VU));
  const exchange = await open(context, etcd.url("/exchange", EXCHANGE));
  await exchange.put("/agents/UVA/secret", 1);
  const { revision } = await exchange.list("/agents/");
  await agent.put("/agents/VU/a", 1, { lease: await agent.grantLease({ ttlMs: 5000 }) });
  assert.equal((await exchange.get("/agents/VU/a"))?.value, 1);
  const denied = refusal("access_refused", /denies the user "VU" the keys \/exchange\/agents\/UVA: grant a role/);
  await assert.rejects(agent.get("/agents/UVA/secret"), denied);
  await assert.rejects(agent.list("/agents/UVA/"), denied);
  await assert.rejects(agent.put("/agents/UVA/secret", 2), denied);
  await assert.rejects(agent.delete("/agents/UVA/secret"), denied);
  await assert.rejects(agent.put("/agents/VU/a", 2, { guard: { key: "/agents/UVA/secret", revision } }), {
    code: "access_refused",
  });
  const watching = (async () => {
    for await (const change of agent.watch("/agents/UVA/", revision)) assert.fail(`it was told of ${change.type}`);
  })();
  await assert.rejects(watching, denied);
  assert.equal((await exchange.get("/agents/UVA/secret"))?.value, 1);
});

test("a wrong password, and none, are refused at once, naming user and fix", { skip }, async (context) => {
  const etcd = await server(context);
  await etcd.enableAuth(ROOT.password, [VU]);
  const startedAt = performance.now();
  const wrong = openKnowledgeStore(etcd.url("/exchange", { name: "VU", password: "wrong-secret" }));
  await assert.rejects(wrong, refusal("access_refused", /refuses the user "VU": correct user and password/));
  const none = openKnowledgeStore(etcd.url("/exchange"));
  await assert.rejects(none, refusal("access_refused", /demands a user: name user and passwordFile/));
  assert.ok(performance.now() - startedAt < 4000, "it did not try until the deadline");
});

test("a password that changed counts from the next token on: its file is read again", { skip }, async (context) => {
  const etcd = await server(context);
  await etcd.enableAuth(ROOT.password, [EXCHANGE]);
  const passwordFile = join(await temporaryFolder(), "password");
  await writeFile(passwordFile, EXCHANGE.password);
  const store = await open(context, `etcd://exchange@${etcd.endpoint}/exchange?passwordFile=${passwordFile}`);
  await store.put("/a", 1);
  const seen: number[] = [];
  const watch = store.watch("/", (await store.list("/")).revision);
  const watching = (async () => {
    for await (const change of watch) seen.push(change.type === "put" ? Number(change.document.value) : 0);
  })();
  const admin = await etcd.admin(ROOT);
  await admin.user(EXCHANGE.name).setPassword("other-secret");
  admin.close();
  await writeFile(passwordFile, "other-secret\n");
  // A restart forgets all tokens, also that of the write that is under way.
  await etcd.kill();
  await etcd.start();
  await eventually(() => store.put("/a", 2), { describe: "the store to be let in again" });
  await eventually(() => seen.includes(2), { describe: "the watch to be let in again" });
  await watch.close();
  await watching;
});

test("a user who lost its permission is told so, also in the middle of a watch's life", { skip }, async (context) => {
  const etcd = await server(context);
  await etcd.enableAuth(ROOT.password, [EXCHANGE]);
  const store = await open(context, etcd.url("/exchange", EXCHANGE));
  const watching = (async () => {
    for await (const change of store.watch("/a", (await store.list("/a")).revision)) assert.ok(change);
  })();
  const admin = await etcd.admin(ROOT);
  await admin.user(EXCHANGE.name).removeRole(EXCHANGE.name);
  admin.close();
  await assert.rejects(store.put("/a", 1), refusal("access_refused", /"exchange"/));
  await etcd.kill();
  await etcd.start();
  await assert.rejects(watching, refusal("access_refused", /"exchange"/));
});

test(
  "TLS: the right authority is trusted, another is not, and plain text gets nowhere",
  { skip: skipTls },
  async (context) => {
    const authority = await CertificateAuthority.make();
    const tls = { ...(await authority.certificate()), caFile: authority.caFile };
    const etcd = await server(context, { tls });
    const store = await open(context, `${etcd.url()}?caFile=${authority.caFile}`);
    await store.put("/a", 1);
    await (await open(context, `etcds://localhost:${etcd.ports.client}?caFile=${authority.caFile}`)).ping();
    const other = await CertificateAuthority.make("Another authority");
    const startedAt = performance.now();
    for (const query of [`?caFile=${other.caFile}`, ""]) {
      const untrusted = /certificate of etcd at 127\.0\.0\.1:\d+ is not trusted .*caFile/;
      await assert.rejects(openKnowledgeStore(`${etcd.url()}${query}`), refusal("unavailable", untrusted));
    }
    assert.ok(performance.now() - startedAt < 4000, "it did not try until the deadline");
    await assert.rejects(openKnowledgeStore(`etcd://${etcd.endpoint}`, { timeoutMs: 1000 }), { code: "unavailable" });
    await writeFile(join(await temporaryFolder(), "x"), "");
    await assert.rejects(
      openKnowledgeStore(`${etcd.url()}?caFile=${tls.certFile}&certFile=${tls.certFile}&keyFile=${tls.certFile}`),
      refusal("configuration_invalid", /certificates of the knowledge store cannot be used/),
    );
  },
);

test("client certificates: demanded, and read again for the next connection", { skip: skipTls }, async (context) => {
  const authority = await CertificateAuthority.make();
  const tls = { ...(await authority.certificate()), caFile: authority.caFile, demandsClientCertificate: true };
  const etcd = await server(context, { tls });
  const folder = await temporaryFolder();
  const files = { certFile: join(folder, "cert.pem"), keyFile: join(folder, "key.pem") };
  const install = async (from: { certFile: string; keyFile: string }): Promise<void> => {
    await copyFile(from.certFile, files.certFile);
    await copyFile(from.keyFile, files.keyFile);
  };
  const url = `${etcd.url()}?caFile=${authority.caFile}`;
  await assert.rejects(openKnowledgeStore(url, { timeoutMs: 1000 }), { code: "unavailable" });
  await install(await authority.certificate("agent"));
  const store = await open(context, `${url}&certFile=${files.certFile}&keyFile=${files.keyFile}`);
  await store.put("/a", 1);
  // One of an authority that the server does not know: the connection that exists goes on, the next is refused.
  await install(await (await CertificateAuthority.make("Another authority")).certificate("agent"));
  await store.put("/a", 2);
  await etcd.kill();
  await etcd.start();
  await assert.rejects(store.get("/a"), { code: "unavailable" });
  await install(await authority.certificate("agent"));
  assert.equal((await eventually(() => store.get("/a")))?.value, 2);
});
