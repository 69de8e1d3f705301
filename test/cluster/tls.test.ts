/** A system where every connection is TLS, by values and certificates from Secrets; new certificates count without a restart. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, describe, test } from "node:test";
import { connect, createSecureContext } from "node:tls";
import { ExchangeClient } from "../../cli/client.ts";
import { CertificateAuthority, noCertificates } from "../support/certificates.ts";
import { forwardService, type Forward } from "../support/cluster-forward.ts";
import { installAll } from "../support/cluster-installation.ts";
import { newSuffix, removeNamespaces } from "../support/cluster-namespaces.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { askUntilAnswered, salaryRequest } from "../support/cluster-questions.ts";
import { coreNamespace, makeSite, partyNamespace, type Site } from "../support/cluster-releases.ts";
import { apply, kubectl, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";

/** Kubelets look at a Secret's volume once a minute or so; RabbitMQ keeps what it read for two. */
const TAKEN_MS = 240_000;
const skip = (await noCluster()) || noCertificates();

if (skip !== false) test("TLS on a cluster", { skip });
else {
  const authority = await CertificateAuthority.make();
  const site: Site = {
    suffix: process.env["DYNAMOS_TEST_RUN"] || newSuffix(),
    prefix: "tls-",
    more: {
      core: ["--set", "tls.enabled=true,tls.secret=core-tls"],
      orchestrator: ["--set", "tls.enabled=true,tls.secret=orchestrator-tls,replicas=1"],
      agent: ["--set", "tls.enabled=true,tls.secret=vu-tls"],
    },
  };
  const core = coreNamespace(site);
  const VU = partyNamespace(site, "VU");
  const forwards: Forward[] = [];
  after(async () => {
    for (const forward of forwards) await forward.close();
    await removeNamespaces(site.suffix, "tls-dynamos", "tls-vu");
  });
  await makeSite(site, ["VU"]);
  await giveCertificates();
  await installAll(site, ["VU"]);

  const ports = {
    orchestrator: await portOf(core, "orchestrator", "http"),
    "VU's agent": await portOf(VU, "vu", "http"),
    etcd: await portOf(core, "core-etcd", "client"),
    RabbitMQ: await portOf(core, "core-rabbitmq", "amqp"),
  };
  const ca = await readFile(authority.caFile);
  const secureContext = createSecureContext({ ca });
  const url = `https://localhost:${String(ports.orchestrator)}`;
  const client = new ExchangeClient(url, { secureContext: () => secureContext });

  describe("a system with TLS", () => {
    test("answers by way of HTTPS, and all its own connections are encrypted", async () => {
      const { answer } = await askUntilAnswered(client, salaryRequest({ providers: ["VU"] }));
      assert.equal(answer.responses[0]?.rowCount, 2);
      const { authorizedProviders } = await client.requestApproval({
        type: "sqlDataRequest",
        user: { id: "analyst-1", userName: "analyst@example.org" },
        dataProviders: ["VU"],
      });
      assert.match(authorizedProviders["VU"] ?? "", /^https:/);
    });

    test("is not believed by who does not know its authority", async () => {
      await assert.rejects(new ExchangeClient(url).get("archetypes"), /certificate/i);
    });

    for (const [who, port] of Object.entries(ports)) {
      test(`${who} shows a certificate that the authority signed`, async () => {
        assert.notEqual(await serialNumberAt(port), "");
      });

      test(`${who} speaks nothing but TLS`, async () => {
        await assert.rejects(fetch(`http://127.0.0.1:${String(port)}/ready`, { signal: AbortSignal.timeout(10_000) }));
      });
    }
  });

  test("new certificates in the Secrets are shown by all of them without a restart, and questions are answered on", async () => {
    const podsBefore = await pods();
    const before = await Promise.all(Object.values(ports).map(serialNumberAt));
    await giveCertificates();
    // A change of a pod makes its kubelet look at once.
    for (const namespace of [core, VU]) {
      await kubectl(["annotate", "pods", "--all", "-n", namespace, "dynamos.test/look=now", "--overwrite"]);
    }
    await eventually(
      async () => {
        for (const [index, [who, port]] of Object.entries(ports).entries()) {
          assert.notEqual(await serialNumberAt(port), before[index], `${who} shows its old certificate`);
        }
        return true;
      },
      { timeoutMs: TAKEN_MS, intervalMs: 2_000, describe: "the new certificates to be shown" },
    );
    const { answer } = await askUntilAnswered(client, salaryRequest({ providers: ["VU"] }));
    assert.equal(answer.responses[0]?.rowCount, 2);
    assert.deepEqual(await pods(), podsBefore);
  });

  /** Makes certificates for everybody, and puts them into their Secrets. */
  async function giveCertificates(): Promise<void> {
    await giveCertificate(core, "core-tls", [
      ...[`core-etcd.${core}.svc`, `*.core-etcd-members.${core}.svc`, `*.core-etcd-members.${core}.svc.cluster.local`],
      ...[`core-rabbitmq.${core}.svc`, `*.core-rabbitmq-nodes.${core}.svc.cluster.local`],
    ]);
    await giveCertificate(core, "orchestrator-tls", [
      `orchestrator.${core}.svc`,
      `*.orchestrator-instances.${core}.svc`,
    ]);
    await giveCertificate(VU, "vu-tls", [`vu.${VU}.svc`, `*.vu-instances.${VU}.svc`]);
  }

  async function giveCertificate(namespace: string, name: string, hosts: readonly string[]): Promise<void> {
    const names = ["DNS:localhost", "IP:127.0.0.1", ...hosts.map((host) => `DNS:${host}`)].join(",");
    const { certFile, keyFile } = await authority.certificate(name, { names });
    const files = { "tls.crt": certFile, "tls.key": keyFile, "ca.crt": authority.caFile };
    const data: Record<string, string> = {};
    for (const [key, file] of Object.entries(files)) data[key] = (await readFile(file)).toString("base64");
    await apply({ apiVersion: "v1", kind: "Secret", type: "kubernetes.io/tls", metadata: { name, namespace }, data });
  }

  async function portOf(namespace: string, service: string, portName: string): Promise<number> {
    const forward = await forwardService(namespace, service, portName);
    forwards.push(forward);
    return forward.port;
  }

  /** Of the certificate that is shown there to one who trusts the authority alone. */
  async function serialNumberAt(port: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1", servername: "localhost", ca, timeout: 10_000 });
      socket.once("error", reject).once("timeout", () => socket.destroy(new Error("no handshake within 10 s")));
      socket.once("secureConnect", () => {
        const { serialNumber } = socket.getPeerCertificate();
        socket.end();
        resolve(serialNumber);
      });
    });
  }

  /** Who they are, and how often they were restarted. */
  async function pods(): Promise<readonly string[]> {
    const found = [...(await podsOf(core)), ...(await podsOf(VU, "app.kubernetes.io/name=dynamos-agent"))];
    return found.map(({ name, uid, restarts }) => `${name} ${uid} ${String(restarts)}`);
  }
}
