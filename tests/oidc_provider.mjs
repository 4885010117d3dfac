// A standard OAuth 2.0 server that nobody here wrote: oidc-provider, with rotation and reuse detection.
//
// node tests/oidc_provider.mjs FOLDER TOKEN_PATH
//
// FOLDER is where npm put the package. Prints its address. Beside the provider's own paths it answers
// GET /test/consent?to=URL (follows a consent page as a user who agrees; the address that ends at),
// GET /test/first?client=ID (a refresh token, by the authorization code flow) and GET /test/seen.

import { createHash, randomBytes } from 'node:crypto';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, tokenPath] = process.argv.slice(2);
const entry = path.resolve(folder, 'node_modules/oidc-provider/lib/index.js');
const { Provider } = await import(pathToFileURL(entry));

const CALLBACK = 'http://localhost:8080/callback';
const client = (id, method) => ({
  client_id: id,
  ...(method === 'none' ? {} : { client_secret: 'a-secret-of-the-tests-0123456789' }),
  application_type: 'native',
  grant_types: ['authorization_code', 'refresh_token'],
  redirect_uris: [CALLBACK],
  token_endpoint_auth_method: method,
});

const seen = { refreshes: 0, errors: [], revoked: 0 };
const server = http.createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const address = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(address, {
  clients: [client('confidential', 'client_secret_post'), client('public', 'none')],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  routes: { token: tokenPath, authorization: '/open-apis/authen/v1/authorize' },
  scopes: ['openid', 'offline_access'],
});
provider.on('grant.success', (ctx) => {
  seen.refreshes += ctx.oidc.params.grant_type === 'refresh_token' ? 1 : 0;
});
provider.on('grant.error', (_, error) => seen.errors.push(`${error.message}: ${error.error_detail}`));
provider.on('grant.revoked', () => { seen.revoked += 1; });

// Agrees to what is asked, and returns the address that the browser ends on.
async function consent(to) {
  const cookies = new Map();
  let request = { url: to, options: {} };
  for (let steps = 0; steps < 20; steps += 1) {
    const { url, options } = request;
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const headers = { cookie, ...options.headers };
    const reply = await fetch(url, { ...options, headers, redirect: 'manual' });
    for (const set of reply.headers.getSetCookie()) {
      const [name, value] = set.split(';')[0].split('=');
      cookies.set(name, value);
    }
    const next = reply.headers.get('location');
    if (next?.startsWith(CALLBACK)) return next;
    if (next) {
      request = { url: new URL(next, url).href, options: {} };
      continue;
    }
    const page = await reply.text();
    const prompt = /name="prompt" value="(\w+)"/.exec(page)?.[1];
    if (!prompt) throw new Error(`no question in ${reply.status} ${page}`);
    const body = new URLSearchParams({ prompt, login: 'someone', password: 'any' });
    const action = /action="([^"]+)"/.exec(page)[1];
    request = { url: new URL(action, url).href, options: { method: 'POST', body } };
  }
  throw new Error('no end');
}

async function first(id) {
  const verifier = randomBytes(32).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const ask = new URLSearchParams({
    client_id: id, response_type: 'code', redirect_uri: CALLBACK, scope: 'openid offline_access',
    code_challenge: challenge, code_challenge_method: 'S256',
  });
  const end = await consent(`${address}/open-apis/authen/v1/authorize?${ask}`);
  const body = new URLSearchParams({
    grant_type: 'authorization_code', code: new URL(end).searchParams.get('code'),
    redirect_uri: CALLBACK, code_verifier: verifier, client_id: id,
  });
  if (id !== 'public') body.set('client_secret', 'a-secret-of-the-tests-0123456789');
  const reply = await (await fetch(address + tokenPath, { method: 'POST', body })).json();
  return reply.refresh_token;
}

const answers = {
  '/test/consent': (query) => consent(query.get('to')),
  '/test/first': (query) => first(query.get('client')),
  '/test/seen': () => JSON.stringify(seen),
};
const handle = provider.callback();
server.on('request', async (request, response) => {
  const url = new URL(request.url, address);
  const answer = answers[url.pathname];
  if (!answer) return handle(request, response);
  try {
    response.end(await answer(url.searchParams));
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
console.log(address);
