import sys,glob,re
sys.path.insert(0,'/tmp/ob'); from prof import load
d=sys.argv[1]; D=int(sys.argv[2]) if len(sys.argv)>2 else 20000
base=None
for n in 'off metrics ledger stamp trace-0 trace-1 otlp trace-1-otlp log trace-all trace-all-otlp'.split():
    for p in sorted(glob.glob(f'{d}/{n}.[0-9].profile')):
        N=(2000 if 'all' in n else D)+1
        s,i,c=load(p)
        f=lambda pat: sum(v for k,v in i.items() if re.search(pat,k))
        v=(f(r'task::Task<S> as core::future::future::Future>::poll$')+f(r'scheduled_io::ScheduledIo::wake$')-f(r'limit::shared::Shared>::look$')-f(r'ledger::Ledger::keep$'))/N
        if n=='stamp': base=v
        print(f'{n:15} {v:9.1f}', '' if base is None else f'{v-base:+9.1f} {100*(v-base)/base:.2f} %')
