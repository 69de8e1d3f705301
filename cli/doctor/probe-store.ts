/** Gathers what `store.ts` judges: opens the store, tries a key and a lease, reads who is online. */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { AppError } from "../../lib/errors.ts";
import { DOCUMENT_KINDS, KnowledgeBase, type DocumentKind } from "../../lib/knowledge/knowledge-base.ts";
import { doctorKeys, orchestratorOnlineKeys, seedKeys } from "../../lib/knowledge/keys.ts";
import { MIN_LEASE_TTL_MS, type KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore, parseKnowledgeStoreUrl } from "../../lib/knowledge/open.ts";
import type { OnlineRecord, OrchestratorOnlineRecord } from "../../lib/messages.ts";
import { readDocuments } from "../../orchestrator/knowledge-admin.ts";
import { checkDocuments } from "../../orchestrator/knowledge-rules.ts";
import { shownUrl } from "../exchange/backends.ts";
import { attempt } from "./attempt.ts";
import type { StoreFacts } from "./store.ts";

/** Looks at the store of this URL. What it writes for trial it deletes; should it be killed, that ends with a lease. */
export async function probeStore(url: string): Promise<StoreFacts> {
  const about = {
    url: shownUrl(url),
    isFile: url.startsWith("sqlite:"),
    agreements: [],
    agents: [],
    orchestrators: [],
  };
  const missingFile = missingStoreFile(url);
  if (missingFile !== undefined) {
    return { ...about, missingFile, reached: { ok: false, code: "not_found", message: "There is no such file." } };
  }
  const opened = await attempt(() => openKnowledgeStore(url));
  const store = opened.result;
  if (store === undefined) return { ...about, reached: opened.outcome };
  try {
    const pinged = await attempt(() => store.ping());
    if (!pinged.outcome.ok) return { ...about, reached: pinged.outcome };
    return {
      ...about,
      reached: opened.outcome,
      written: (await attempt(() => tryKey(store))).outcome,
      leased: (await attempt(() => tryLease(store))).outcome,
      ...(await readAll(store)),
    };
  } finally {
    await store.close();
  }
}

/** The file of an embedded store where there is none: opening would make it. */
function missingStoreFile(url: string): string | undefined {
  if (!url.startsWith("sqlite:")) return undefined;
  const parsed = parseKnowledgeStoreUrl(url);
  return parsed.kind === "sqlite" && !existsSync(parsed.path) ? parsed.path : undefined;
}

async function tryKey(store: KnowledgeStore): Promise<void> {
  const key = doctorKeys.key({ probe: randomUUID() });
  const lease = await store.grantLease({ ttlMs: MIN_LEASE_TTL_MS, renewal: "manual" });
  try {
    await store.put(key, { probe: true }, { lease });
    if ((await store.get(key)) === undefined) throw new AppError("internal", "What was written is not there.");
    await store.delete(key);
  } finally {
    await lease.release();
  }
}

async function tryLease(store: KnowledgeStore): Promise<void> {
  const key = doctorKeys.key({ probe: randomUUID() });
  const lease = await store.grantLease({ ttlMs: MIN_LEASE_TTL_MS, renewal: "manual" });
  try {
    await store.put(key, { probe: true }, { lease });
    await lease.renew();
  } finally {
    await lease.release();
  }
  if ((await store.get(key)) !== undefined) {
    throw new AppError("internal", "A key was still there after its lease had ended.");
  }
}

async function readAll(
  store: KnowledgeStore,
): Promise<
  Pick<StoreFacts, "documents" | "counts" | "rules" | "isSeeding" | "agreements" | "agents" | "orchestrators">
> {
  const knowledge = new KnowledgeBase(store);
  const read = await attempt(() => readDocuments(knowledge));
  const online = await attempt(() => readOnline(knowledge));
  const seeding = await attempt(() => store.get(seedKeys.key({ name: "documents" })));
  const documents = read.result;
  return {
    isSeeding: seeding.result?.value === "under way",
    documents: read.outcome,
    ...(documents === undefined
      ? {}
      : { counts: countsOf(documents), rules: (await attempt(async () => checkDocuments(documents))).outcome }),
    agreements: documents?.agreements ?? [],
    agents: online.result?.agents ?? [],
    orchestrators: online.result?.orchestrators ?? [],
  };
}

async function readOnline(
  knowledge: KnowledgeBase,
): Promise<{ readonly agents: readonly OnlineRecord[]; readonly orchestrators: readonly OrchestratorOnlineRecord[] }> {
  const { documents } = await knowledge.online();
  const orchestrators = await knowledge.store.list(orchestratorOnlineKeys.prefix());
  return {
    agents: documents.map(({ document }) => document),
    orchestrators: orchestrators.documents.map(({ value }) => value as OrchestratorOnlineRecord),
  };
}

function countsOf(documents: Readonly<Record<DocumentKind, readonly unknown[]>>): Record<DocumentKind, number> {
  return Object.fromEntries(DOCUMENT_KINDS.map((kind) => [kind, documents[kind].length])) as Record<
    DocumentKind,
    number
  >;
}
