/** What an agent's service account may do, and what it must not: `charts/agent` gives it exactly the first. Pure. */
import { fault, ok, skip, type Finding } from "./findings.ts";
import type { NamespaceFacts } from "./kubernetes-facts.ts";

/** One right: a verb on a resource of an API group. */
export interface Right {
  readonly group: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly verb: string;
}

/** All that an agent's chains need, in its own namespace. */
export const NEEDED_RIGHTS: readonly Right[] = [
  ...rights("batch", "jobs", ["create", "get", "list", "watch", "patch", "delete"]),
  ...rights("", "pods", ["get", "list", "watch", "patch", "delete"]),
  ...rights("", "pods/log", ["get"]),
  ...rights("", "events", ["create", "get", "list", "watch"]),
];

/** What would let whoever takes an agent over do more harm than its chains do: others' secrets, pods of any kind, more rights. */
export const EXCESS_RIGHTS: readonly Right[] = [
  ...rights("", "secrets", ["get", "list", "create"]),
  ...rights("", "configmaps", ["get", "update"]),
  ...rights("", "pods", ["create"]),
  ...rights("", "pods/exec", ["create"]),
  ...rights("", "persistentvolumeclaims", ["delete"]),
  ...rights("", "serviceaccounts/token", ["create"]),
  ...rights("apps", "statefulsets", ["update"]),
  ...rights("apps", "deployments", ["create"]),
  ...rights("rbac.authorization.k8s.io", "rolebindings", ["create"]),
];

function rights(group: string, path: string, verbs: readonly string[]): readonly Right[] {
  const [resource = "", subresource] = path.split("/");
  return verbs.map((verb) => ({ group, resource, verb, ...(subresource === undefined ? {} : { subresource }) }));
}

/** `create jobs.batch`, `get pods/log`: as `kubectl auth can-i` takes them. */
export function rightName({ group, resource, subresource, verb }: Right): string {
  const path = subresource === undefined ? resource : `${resource}/${subresource}`;
  return `${verb} ${path}${group === "" ? "" : `.${group}`}`;
}

/** Judges the rights of the agents' service accounts. */
export function judgeRights({ name, rights: accounts }: NamespaceFacts): readonly Finding[] {
  return accounts.flatMap(({ serviceAccount, answers }) => {
    const who = `The service account ${serviceAccount} in ${name}`;
    if (!answers.seen) return [skip("cluster.rights", `${who}: what it may do cannot be asked: ${answers.why}`)];
    const { missing, excess } = answers.value;
    const found: Finding[] = [];
    if (missing.length > 0) {
      found.push(
        fault(
          "cluster.rights",
          "fail",
          `${who} may not: ${missing.join(", ")}. Its agent cannot run chains.`,
          `Restore the Role and the RoleBinding ${serviceAccount} in ${name}: helm upgrade the agent's release. By hand: kubectl -n ${name} auth can-i ${missing[0] ?? ""} --as system:serviceaccount:${name}:${serviceAccount}`,
        ),
      );
    }
    if (excess.length > 0) {
      found.push(
        fault(
          "cluster.rights",
          "warn",
          `${who} may more than it needs: ${excess.join(", ")}.`,
          `Look for another binding that names it (kubectl get rolebindings,clusterrolebindings -A -o wide), and take it away.`,
        ),
      );
    }
    return found.length > 0 ? found : [ok("cluster.rights", `${who} may do what its agent needs, and no more.`)];
  });
}
