// Looks at the live page in headless Chromium: `node live_page.mjs ADMIN_URL OUT_PREFIX SECONDS [SERVICE_URL PID]`.
// With a service it sends load to it for so long; with a process it ends that and looks at the page of a server that is gone.
// Fails on any console error or exception, and when a number on the page differs from /runtime.json.
// Writes OUT_PREFIX-{light,dark,phone,gone}.png.
import { spawn } from 'node:child_process';
import { Agent, request } from 'node:http';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [url, out, seconds = '12', service, pid] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'stellane-page-'));
const chromium = spawn(process.env.CHROMIUM || 'chromium', [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe',
  '--no-first-run', '--hide-scrollbars', '--disable-background-networking', '--disable-component-update', `--user-data-dir=${profile}`, 'about:blank',
], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });

const problems = [];
const waiting = new Map();
let nextId = 0, buffer = '';
chromium.stdio[4].on('data', chunk => {
  const parts = (buffer += chunk).split('\0');
  buffer = parts.pop();
  for (const part of parts) {
    const message = JSON.parse(part);
    if (message.id) { waiting.get(message.id)?.(message); waiting.delete(message.id); }
    if (message.method === 'Runtime.exceptionThrown') problems.push(message.params.exceptionDetails.exception?.description || message.params.exceptionDetails.text);
    if (message.method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(message.params.type)) problems.push('console: ' + message.params.args.map(a => a.value).join(' '));
    if (message.method === 'Log.entryAdded' && message.params.entry.level === 'error') problems.push('log: ' + message.params.entry.text + ' ' + message.params.entry.url);
  }
});
const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
  const id = ++nextId;
  waiting.set(id, m => m.error ? reject(new Error(method + ': ' + m.error.message)) : resolve(m.result));
  chromium.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
});
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

const check = (is, otherwise) => { if (!is) problems.push(otherwise); };
// Sixteen clients with connections that stay; some ask for what is not there, or for what takes long.
function load(until) {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const get = path => new Promise(resolve => request(service + path, { agent }, response => response.resume().on('end', resolve).on('error', resolve)).on('error', resolve).end());
  const paths = ['/hello', '/hello/Ada', '/users/7', '/hello', '/users/8', '/hello', '/nowhere', '/primes/20000'];
  return Array.from({ length: 16 }, async (_, client) => {
    for (let n = client; Date.now() < until; n++) { await get(paths[n % paths.length]); await sleep(2 + 8 * (1 + Math.sin(n / 200))); }
  });
}

let failed = false;
try {
  const { targetId } = await send('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  await Promise.all(['Page.enable', 'Runtime.enable', 'Log.enable'].map(m => page(m)));
  const theme = value => page('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] });
  const size = (width, height, mobile) => page('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile });
  const evaluate = async expression => {
    const { result, exceptionDetails } = await page('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description || exceptionDetails.text);
    return result.value;
  };
  const shoot = async name => {
    await sleep(700);
    const { data } = await page('Page.captureScreenshot', { captureBeyondViewport: true });
    writeFileSync(`${out}-${name}.png`, Buffer.from(data, 'base64'));
  };

  await theme('light');
  await size(1280, 1000, false);
  await page('Page.navigate', { url });
  const until = Date.now() + Number(seconds) * 1000;
  await Promise.all([sleep(Number(seconds) * 1000), ...(service ? load(until) : [])]);
  const compared = await evaluate(`(async () => {
    for (let attempt = 0; attempt < 100; attempt++) {
      const json = await (await fetch('runtime.json')).json();
      await new Promise(resolve => setTimeout(resolve, 20));
      if (document.documentElement.dataset.snapshot !== String(json.uptime)) continue;
      const tiles = [...document.querySelectorAll('[data-keys]')];
      return { tiles: tiles.length, wrong: tiles.filter(t => t.dataset.raw !== t.dataset.keys.split(' ').map(key => json[key]).join(' ')).map(t => t.dataset.keys) };
    }
    return { tiles: 0, wrong: ['no snapshot in common'] };
  })()`);
  check(!compared.wrong.length && compared.tiles, 'page and /runtime.json differ: ' + compared.wrong);
  const spilled = () => evaluate(`[...document.querySelectorAll('.tile b')].filter(b => b.getBoundingClientRect().right > b.parentElement.getBoundingClientRect().right - 12).map(b => b.textContent).join()`);
  check(await spilled() === '', 'numbers that do not fit into their tiles: ' + await spilled());
  const overflow = () => evaluate('document.documentElement.scrollWidth - innerWidth');
  check(await overflow() <= 0, 'the page scrolls sideways on a desktop');
  if (service) {
    // A route's own course opens by the keyboard, and search finds one.
    check(await evaluate(`(async () => {
      const open = [...document.querySelectorAll('#routes td button')].find(b => b.textContent === '/hello');
      if (!open) return 'no row of /hello';
      open.focus(); open.click();
      for (let i = 0; i < 40 && !route.points.length; i++) await new Promise(resolve => setTimeout(resolve, 50));
      document.getElementById('search').value = 'users'; routes();
      const rows = [...document.querySelectorAll('#routes tbody tr')].map(r => r.innerText);
      document.getElementById('search').value = ''; routes();
      return route.points.length && rows.length === 1 && rows[0].includes('/users/') ? '' : 'points ' + route.points.length + ', rows ' + rows;
    })()`) === '', 'the routes do not open or are not found');
  }
  await shoot('light');
  // The past is there at once for who comes now.
  await page('Page.reload');
  await sleep(1500);
  const seen = await evaluate('points.length');
  check(seen >= Number(seconds) - 2, `after a reload the page knows ${seen} seconds of ${seconds}`);
  // A line at the pointer, in all charts; a selection stays.
  await evaluate(`(() => {
    const canvas = document.querySelector('.chart canvas'), at = (type, x) => canvas.dispatchEvent(new PointerEvent(type, { clientX: canvas.getBoundingClientRect().x + x, clientY: canvas.getBoundingClientRect().y + 20 }));
    at('pointerdown', canvas.clientWidth - 60); at('pointerup', canvas.clientWidth - 5); at('pointermove', canvas.clientWidth - 30);
  })()`);
  await sleep(300);
  check(await evaluate('view.hover > 0 && view.to - view.from >= 3 && document.getElementById("pause").textContent') === 'Go on', 'no selection by the pointer');
  await evaluate('document.getElementById("pause").click()');
  check(await evaluate('view.to') === 0, 'the selection does not end');
  // The controls work from the page: the same origin, without a token on a loopback address.
  const answers = await evaluate(`(async () => {
    const use = async (input, value, form, answer) => {
      document.getElementById(input).value = value;
      document.getElementById(form).requestSubmit();
      for (let i = 0; i < 100 && !document.getElementById(answer).textContent; i++) await new Promise(resolve => setTimeout(resolve, 50));
      return document.getElementById(answer).textContent;
    };
    return [await use('mode', 'apply', 'mode-form', 'mode-answer'), await use('level', 'warn', 'log-form', 'log-answer'),
      (await (await fetch('tuning')).json()).mode, await (await fetch('log-level')).json()];
  })()`);
  check(answers.join() === 'done,done,apply,warn', 'the controls answered ' + answers);
  await theme('dark');
  await shoot('dark');
  await size(390, 844, true);
  await sleep(500);
  check(await overflow() <= 0, 'the page scrolls sideways on a phone');
  check(await spilled() === '', 'numbers that do not fit into their tiles on a phone: ' + await spilled());
  await shoot('phone');
  const before = problems.length;
  if (pid) {
    process.kill(Number(pid), 'SIGKILL');
    await sleep(1500);
    check(await evaluate('!document.getElementById("gone").hidden && document.title.startsWith("✕")'), 'a server that is gone is not told');
    await size(1280, 1000, false);
    await shoot('gone');
    // That it can't be reached is what the browser itself complains of.
    for (let i = problems.length - 1; i >= before; i--) if (/ERR_|net::/.test(problems[i])) problems.splice(i, 1);
  }
  console.log(`${compared.tiles} numbers compared`);
} catch (error) {
  problems.push(error.stack);
} finally {
  await Promise.race([send('Browser.close').catch(() => {}), sleep(2000)]);
  chromium.kill();
  await sleep(300);
  rmSync(profile, { recursive: true, force: true });
}
for (const problem of problems) { failed = true; console.error(problem); }
process.exit(failed ? 1 : 0);
