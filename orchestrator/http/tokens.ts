/** `POST /api/v1/token` refreshes an access token; `GET /.well-known/jwks.json` publishes the keys that tokens are checked with. */
import { Type } from "@sinclair/typebox";
import type { FastifyInstance } from "fastify";
import { publicJwks } from "../../lib/tokens.ts";
import { currentPlan } from "../current-plan.ts";
import type { HttpContext } from "./context.ts";

const RefreshBody = Type.Union([
  Type.Object({ refreshToken: Type.Optional(Type.String()), refresh_token: Type.Optional(Type.String()) }),
  Type.Null(),
]);

/** Adds the routes. */
export function addTokenRoutes(
  server: FastifyInstance,
  { callers, tokens, orchestrator, signingKeys }: HttpContext,
): void {
  server.get("/.well-known/jwks.json", async (_request, reply) =>
    reply.header("cache-control", "public, max-age=300").send(publicJwks(signingKeys)),
  );
  server.post<{ Body: { refreshToken?: string; refresh_token?: string } | null }>(
    "/api/v1/token",
    { schema: { body: RefreshBody } },
    async (request) => {
      const given = request.body?.refreshToken ?? request.body?.refresh_token;
      const { job, exp } = await callers.ofRefreshToken(request, given);
      // A job that ended or was stopped gets no new tokens.
      const plan = await currentPlan(job, orchestrator, request.callerGone);
      return { ...(await tokens.issue(plan, exp)), tokenType: "Bearer", jobId: job, archetype: plan.archetype };
    },
  );
}
